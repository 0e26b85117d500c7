# A program for guest.c that shows which instructions the emulator gets wrong: two of those in the networks' code.

        .text
probe:  vmovdqu64 (%rdi), %xmm16
        vgf2p8affineqb $0, 16(%rdi), %xmm16, %xmm17     # the identity
        vmovdqu64 %xmm17, (%rsi)
        vpinsrb $0, 2(%rdi), %xmm16, %xmm17             # the third byte in place of the first
        vmovdqu64 %xmm17, 16(%rsi)
        xor     %eax, %eax
        ret

        .data
        .globl  calls, calls_end
calls:  .quad   probe, words, words, words, 1, 64, 32
calls_end:
words:  .byte   0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 128, 255
        .quad   0x0102040810204080, 0x0102040810204080
        .skip   32
