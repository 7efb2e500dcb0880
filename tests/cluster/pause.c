// What holds the namespaces of a pod.
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void stop(int signal) {
  (void)signal;
  _exit(0);
}

int main(void) {
  signal(SIGTERM, stop);
  signal(SIGINT, stop);
  for (;;)
    pause();
}
