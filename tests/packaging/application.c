/* A seller's application, for the test of `tollgate exec` in an image without a shell: it tells what it was given, has a grandchild that
   outlives its parent, and ends with 7 on SIGTERM. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static volatile sig_atomic_t asked;

static void on_signal(int number) { asked = number; }

int main(int count, char **arguments) {
    printf("pid %d\n", getpid());
    for (int i = 1; i < count; i++) printf("argument %s\n", arguments[i]);
    for (char **entry = environ; *entry; entry++) printf("environment %s\n", *entry);
    for (int descriptor = 3; descriptor < 1024; descriptor++)
        if (fcntl(descriptor, F_GETFD) != -1) printf("open %d\n", descriptor);
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int number = 1; number < 32; number++) {
        struct sigaction action;
        sigaction(number, NULL, &action);
        if (action.sa_handler == SIG_IGN) printf("ignored %d\n", number);
        if (sigismember(&blocked, number) == 1) printf("blocked %d\n", number);
    }
    fflush(stdout);
    if (fork() == 0) {
        /* The grandchild's parent is gone when it ends: only PID 1 can reap it. */
        if (fork() == 0) {
            while (getppid() != 1) usleep(1000);
            _exit(0);
        }
        _exit(0);
    }
    int reaped = 0;
    while (wait(NULL) > 0) reaped++;
    printf("reaped %d\n", reaped);
    sigset_t terminate;
    sigemptyset(&terminate);
    sigaddset(&terminate, SIGTERM);
    sigprocmask(SIG_BLOCK, &terminate, &blocked);
    signal(SIGTERM, on_signal);
    puts("ready");
    fflush(stdout);
    while (!asked) sigsuspend(&blocked);
    printf("signal %d\n", asked);
    return 7;
}
