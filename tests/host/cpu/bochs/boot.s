# The first sector of the disk: reads what follows it to 1 MiB, turns on AVX-512, and goes there in 64-bit mode.
# CHUNKS, the length of the program in units of 32 KiB, is given to the assembler.

.set PROGRAM, 0x100000
.set BUFFER, 0x10000
.set TABLES, 0x20000
.set STACK, 0x90000
.set SECTORS, 64

.code16
        cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        mov     %dl, drive
        in      $0x92, %al                      # the address line A20
        or      $2, %al
        out     %al, $0x92
        lgdt    descriptor

next:   mov     $packet, %si
        mov     $0x42, %ah
        mov     drive, %dl
        int     $0x13
        cli
        jc      stop
        mov     %cr0, %eax                      # protected for a moment, where the program's place can be reached
        or      $1, %al
        mov     %eax, %cr0
        mov     $8, %bx
        mov     %bx, %ds
        mov     %bx, %es
        mov     $BUFFER, %esi
        mov     place, %edi
        mov     $SECTORS * 512 / 4, %ecx
        addr32 rep movsl
        and     $0xfe, %al
        mov     %eax, %cr0
        xor     %bx, %bx
        mov     %bx, %ds
        mov     %bx, %es
        mov     %edi, place
        addl    $SECTORS, sector
        decl    left
        jnz     next

        mov     $TABLES >> 4, %ax               # the first GiB, mapped to itself in pages of 2 MiB
        mov     %ax, %es
        xor     %di, %di
        xor     %eax, %eax
        mov     $0x3000 / 4, %cx
        rep stosl
        movl    $TABLES + 0x1003, %es:0
        movl    $TABLES + 0x2003, %es:0x1000
        mov     $0x2000, %di
        mov     $0x83, %eax
page:   mov     %eax, %es:(%di)
        add     $0x200000, %eax
        add     $8, %di
        cmp     $0x3000, %di
        jne     page
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     $0x40620, %eax                  # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx               # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     $0x80000013, %eax               # PG, ET, MP, PE
        mov     %eax, %cr0
        ljmp    $16, $long
stop:   hlt
        jmp     stop

.code64
long:   xor     %ecx, %ecx
        xor     %edx, %edx
        mov     $0xe7, %eax                     # XCR0: x87, SSE, AVX and the three states of AVX-512
        xsetbv
        mov     $STACK, %esp
        mov     $PROGRAM, %eax
        call    *%rax

.balign 8
global: .quad   0
        .quad   0x00cf92000000ffff              # 8: data, 4 GiB
        .quad   0x00af9a000000ffff              # 16: code of 64 bits
descriptor:
        .word   descriptor - global - 1
        .long   global
packet: .byte   16, 0
        .word   SECTORS, 0, BUFFER >> 4
sector: .quad   1
place:  .long   PROGRAM
left:   .long   CHUNKS
drive:  .byte   0

        .org    510
        .word   0xaa55
