/* The bare sender: what fan-out costs when there is nothing but send(2). cc -O2 -o sender sender.c
 *
 *   sender PORT COUNT INTERVAL-MS TAGS-FILE
 *
 * Accepts COUNT viewers on 127.0.0.1:PORT, reads and ignores a request of each, answers with the first record of
 * TAGS-FILE and then sends the others in real time: every INTERVAL-MS what has come due is joined and written to each
 * viewer; 0 means every record by itself. Records are (ms, size) as 32-bit little-endian, and bytes. The options of
 * the sockets are streamd's. A viewer whose socket is full misses what does not fit; "missed" on standard error says how often.
 * Prints "ready" when it listens; ends with the file, at SIGTERM, or when a viewer has gone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SEND_BUFFER 262144 /* [network] send_buffer */

struct record {
    uint32_t ms, size;
    const char *bytes;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path);
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    char *bytes = malloc(*size);
    if (fread(bytes, 1, *size, file) != *size)
        die(path);
    return bytes;
}

static int listen_on(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 1024) < 0)
        die("listen");
    return fd;
}

static int welcome(int listener, const struct record *head)
{
    char request[4096];
    int fd = accept(listener, NULL, NULL), one = 1, size = SEND_BUFFER;
    if (fd < 0)
        die("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (recv(fd, request, sizeof request, 0) <= 0 || send(fd, head->bytes, head->size, MSG_NOSIGNAL) < 0)
        die("viewer");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int main(int count_of_words, char **words)
{
    if (count_of_words != 5) {
        fprintf(stderr, "usage: sender PORT COUNT INTERVAL-MS TAGS-FILE\n");
        return 2;
    }
    int count = atoi(words[2]);
    double interval = atof(words[3]);
    size_t size, records = 0;
    char *bytes = read_whole(words[4], &size), *joined = malloc(size);
    struct record *record = malloc(size / 8 * sizeof *record);
    for (char *at = bytes; at < bytes + size; records++) {
        memcpy(&record[records].ms, at, 4);
        memcpy(&record[records].size, at + 4, 4);
        record[records].bytes = at + 8;
        at += 8 + record[records].size;
    }
    int listener = listen_on(atoi(words[1])), *viewers = malloc(count * sizeof *viewers);
    printf("ready\n"), fflush(stdout);
    for (int one = 0; one < count; one++)
        viewers[one] = welcome(listener, &record[0]);

    struct timespec begun, due;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    long missed = 0;
    for (size_t next = 1; next < records;) {
        double when = interval > 0 ? ((int)(record[next].ms / interval) + 1) * interval : record[next].ms;
        size_t length = 0, first = next;
        while (next < records && (interval > 0 ? record[next].ms < when : next == first)) {
            memcpy(joined + length, record[next].bytes, record[next].size);
            length += record[next++].size;
        }
        int64_t ns = begun.tv_nsec + (int64_t)(when * 1e6);
        due.tv_sec = begun.tv_sec + ns / 1000000000, due.tv_nsec = ns % 1000000000;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
            ;
        for (int one = 0; one < count; one++) {
            ssize_t sent = send(viewers[one], joined, length, MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN)
                return 0;
            missed += sent != (ssize_t)length;
        }
        if (missed)
            fprintf(stderr, "sender: missed %ld\n", missed), missed = 0;
    }
    return 0;
}
