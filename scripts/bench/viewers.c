/* Viewers in a process of their own: cc -O2 -o viewers viewers.c; viewers PORT COUNT REQUEST-FILE
 *
 * COUNT connections to 127.0.0.1:PORT send what is in REQUEST-FILE (an HTTP request, or an RTMP viewer's whole side of
 * the dialogue) and then read for ever. Prints "ready" when each has received something. A line on standard input
 * begins the measurement, a second one ends it; then one line of JSON is printed: bytes of all viewers together, the
 * fewest of one, those that were closed, and the longest gap in ms between two reads of one viewer.
 *
 * Nothing is parsed, so that on a machine with few processors the sender is measured and not this.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (256 << 10)
#define BURST 64 /* connections opened between two looks at those that are open */

struct viewer {
    int fd;
    uint64_t bytes; /* since the beginning of the measurement */
    double last;    /* ms, of the latest read */
    double gap;
    int begun;
};

static char buffer[BUFFER], request[65536];

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int join(int port, const char *bytes, size_t size)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    if (send(fd, bytes, size, 0) != (ssize_t)size)
        die("send");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int main(int count_of_words, char **words)
{
    if (count_of_words != 4) {
        fprintf(stderr, "usage: viewers PORT COUNT REQUEST-FILE\n");
        return 2;
    }
    int port = atoi(words[1]), count = atoi(words[2]), open_ones = 0, begun = 0, closed = 0, phase = 0;
    FILE *file = fopen(words[3], "rb");
    if (!file)
        die(words[3]);
    size_t size = fread(request, 1, sizeof request, file);
    struct viewer *viewers = calloc(count, sizeof *viewers);
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &event);

    for (;;) {
        for (int opened = 0; open_ones < count && opened < BURST; opened++, open_ones++) {
            viewers[open_ones].fd = join(port, request, size);
            event.data.u32 = open_ones;
            epoll_ctl(poll, EPOLL_CTL_ADD, viewers[open_ones].fd, &event);
        }
        struct epoll_event events[256];
        int found = epoll_wait(poll, events, 256, open_ones < count ? 1 : -1);
        double now = now_ms();
        for (int at = 0; at < found; at++) {
            if (events[at].data.u32 == UINT32_MAX) {
                if (read(0, buffer, BUFFER) <= 0)
                    return 1;
                if (++phase == 2)
                    goto done;
                for (int one = 0; one < count; one++)
                    viewers[one].bytes = 0, viewers[one].gap = 0, viewers[one].last = now;
                continue;
            }
            struct viewer *viewer = &viewers[events[at].data.u32];
            ssize_t got = recv(viewer->fd, buffer, BUFFER, 0);
            if (got <= 0) {
                close(viewer->fd);
                closed++;
                continue;
            }
            viewer->bytes += got;
            if (now - viewer->last > viewer->gap && phase)
                viewer->gap = now - viewer->last;
            viewer->last = now;
            if (!viewer->begun) {
                viewer->begun = 1;
                if (++begun == count)
                    printf("ready\n"), fflush(stdout);
            }
        }
    }
done:;
    uint64_t total = 0, least = UINT64_MAX;
    double gap = 0;
    for (int one = 0; one < count; one++) {
        total += viewers[one].bytes;
        if (viewers[one].bytes < least)
            least = viewers[one].bytes;
        if (viewers[one].gap > gap)
            gap = viewers[one].gap;
    }
    printf("{\"bytes\": %llu, \"least\": %llu, \"closed\": %d, \"gap_ms\": %.1f}\n", (unsigned long long)total,
           (unsigned long long)least, closed, gap);
    return 0;
}
