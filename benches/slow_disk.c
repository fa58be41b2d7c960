/* Preloaded into a program, makes each fsync and fdatasync last at least SLOW_DISK_US microseconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int slowly(const char *name, int fd) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const char *text = getenv("SLOW_DISK_US");
    long nanoseconds = until.tv_nsec + (text ? atol(text) : 0) * 1000;
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    int result = ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    return result;
}

int fsync(int fd) { return slowly("fsync", fd); }
int fdatasync(int fd) { return slowly("fdatasync", fd); }
