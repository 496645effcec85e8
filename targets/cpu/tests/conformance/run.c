/* Runs kernels for another architecture: linked statically, started once under qemu-user.
 *
 * request:  u64 bytes of code, code, u64 tasks, u64 bytes of scratch, u64 parameters;
 *           of each: u64 buffers of the table (0: no table, one buffer), of each u64 bytes, bytes
 * response: the bytes of all buffers that are no table, in order
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef void kernel(const void *const *buffers, uint8_t *scratch, uint64_t begin, uint64_t end, const void *micro);

static void fill(void *to, uint64_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(0);
}

static uint64_t number(void) {
    uint64_t n;
    fill(&n, sizeof n);
    return n;
}

static void *aligned(uint64_t bytes) {
    return aligned_alloc(64, (bytes + 127) & ~(uint64_t)63);
}

static void *buffer(uint64_t *bytes) {
    *bytes = number();
    void *at = aligned(*bytes);
    fill(at, *bytes);
    return at;
}

int main(void) {
    for (;;) {
        uint64_t size = number();
        void *code = mmap(0, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        fill(code, size);
        __builtin___clear_cache(code, (char *)code + size);
        uint64_t tasks = number();
        uint8_t *scratch = aligned(number());
        uint64_t params = number();
        const void **buffers = calloc(params + 1, sizeof *buffers);
        uint64_t *bytes = calloc(params + 1, sizeof *bytes);
        for (uint64_t p = 0; p < params; p++) {
            uint64_t entries = number(), ignored;
            if (!entries) {
                buffers[p] = buffer(&bytes[p]);
                continue;
            }
            void **table = calloc(entries, sizeof *table);
            for (uint64_t e = 0; e < entries; e++) table[e] = buffer(&ignored);
            buffers[p] = table;
        }
        /* In two calls: the second must not find anything that the first left behind. */
        ((kernel *)code)(buffers, scratch, 0, tasks / 2, 0);
        ((kernel *)code)(buffers, scratch, tasks / 2, tasks, 0);
        for (uint64_t p = 0; p < params; p++) fwrite(buffers[p], 1, bytes[p], stdout);
        fflush(stdout);
        munmap(code, size);
    }
}
