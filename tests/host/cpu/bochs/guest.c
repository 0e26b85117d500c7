/* The program that the emulator boots: calls the networks' machine code and prints what it gives.

   Everything goes to the parallel port, which the emulator writes to a file: of each call its result (4 bytes, -1 if the
   processor refuses an instruction), the output values, and the bytes behind them, which nothing may have changed. */

typedef int entry(const char *words, char *results, long count, char *work, const char *block);

struct call {
    entry *function;
    const char *words, *block, *workspace;
    long count, work_bytes, result_bytes;
};

/* Of data.s, which the host writes, and of the linker. */
extern const struct call calls[], calls_end[];
extern char end[];

enum { GUARD = 64, UNTOUCHED = 0xaa, REFUSED = -1 };

/* The processor's table of what handles its exceptions, up to that of an invalid instruction. */
enum { INVALID = 6, CODE = 16, PRESENT = 0x8e00 };
static struct {
    unsigned short low, segment, flags, middle;
    unsigned high, zero;
} handlers[INVALID + 1];

static void *before_call[5];

void *memset(void *to, int value, unsigned long count)
{
    void *place = to;
    asm volatile("rep stosb" : "+D"(place), "+c"(count) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, unsigned long count)
{
    void *place = to;
    asm volatile("rep movsb" : "+D"(place), "+S"(from), "+c"(count) : : "memory");
    return to;
}

static void out(unsigned short port, unsigned char value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void print(const void *from, long count)
{
    for (const unsigned char *byte = from; count--; byte++) {
        out(0x378, *byte);
        out(0x37a, 0x0d);
        out(0x37a, 0x0c);
    }
}

static __attribute__((noreturn)) void refuse(void)
{
    __builtin_longjmp(before_call, 1);
}

static void handle_invalid_instructions(void)
{
    unsigned long address = (unsigned long)refuse;
    struct __attribute__((packed)) {
        unsigned short last;
        unsigned long start;
    } place = { sizeof handlers - 1, (unsigned long)handlers };
    handlers[INVALID].low = address;
    handlers[INVALID].segment = CODE;
    handlers[INVALID].flags = PRESENT;
    handlers[INVALID].middle = address >> 16;
    asm volatile("lidt %0" : : "m"(place));
}

static void run(const struct call *call)
{
    char *work = (char *)(((unsigned long)end + 63) & -64UL);
    char *results = work + call->work_bytes;
    memcpy(work, call->workspace, call->work_bytes);
    memset(results, UNTOUCHED, call->result_bytes + GUARD);
    volatile int result = REFUSED;
    if (__builtin_setjmp(before_call) == 0)
        result = call->function(call->words, results, call->count, work, call->block);
    print((const void *)&result, sizeof result);
    print(results, call->result_bytes + GUARD);
}

__attribute__((section(".start"))) void start(void)
{
    handle_invalid_instructions();
    for (const struct call *call = calls; call != calls_end; call++)
        run(call);
    /* The emulator's own switch. */
    for (const char *letter = "Shutdown"; *letter; letter++)
        out(0x8900, *letter);
    for (;;)
        asm volatile("hlt");
}
