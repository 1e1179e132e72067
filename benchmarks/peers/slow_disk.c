/* Makes each sync of a file to disk SLOWER_US microseconds longer. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int sync_later(const char *name, int file) {
    const char *slower = getenv("SLOWER_US");
    long long us = slower ? atoll(slower) : 0;
    struct timespec nap = {us / 1000000, us % 1000000 * 1000};
    if (us > 0)
        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, &nap) == EINTR) {}
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(file);
}

int fdatasync(int file) { return sync_later("fdatasync", file); }
int fsync(int file) { return sync_later("fsync", file); }
