/* What each process holds of each card on the stand-in driver: beside the scenario, as a file that
 * all map. A process has a row as long as it holds the lock of that row's byte, which the kernel
 * takes from it when it ends, however it ends. */
#ifndef ACCOUNTS_H
#define ACCOUNTS_H
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long long u64;
enum { MAX_DEVICES = 16, MOST_HOLDERS = 64, ALL_ROWS = 1 << 20 };
typedef struct { int pid; u64 bytes[MAX_DEVICES]; } Holder;

static int accounts_lock(int file, long at, int kind, int command) {
    struct flock row = {.l_type = (short)kind, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int failed = fcntl(file, command, &row);
    return failed ? -1 : row.l_type;
}

/* The file, mapped; made where it is not there and `make` says so, else NULL. */
static Holder *accounts(int make, int *file) {
    char path[4096];
    const char *scenario = getenv("DANZAR_STANDIN_NVML");
    if (!scenario) return NULL;
    snprintf(path, sizeof path, "%s.held", scenario);
    *file = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0600);
    if (*file < 0) return NULL;
    size_t size = sizeof(Holder) * MOST_HOLDERS;
    if (make && ftruncate(*file, (off_t)size)) abort();
    if (lseek(*file, 0, SEEK_END) < (off_t)size) { /* who makes it has only begun */
        close(*file);
        return NULL;
    }
    Holder *rows = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
    if (rows == MAP_FAILED) abort();
    return rows;
}

#endif
