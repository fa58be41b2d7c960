/* The floors of benches/start.py and benches/serving.py: what the least program needs that does the same over the network.
 *
 * floor post HOST PORT NONCE   one POST as RegisterUsage is called; ends at the answer
 * floor probe HOST PORT PATH   one GET, as an exec probe makes it; fails unless the status is 200 and the gate is open
 * floor serve HOST PORT TEXT   answers one connection after the other with TEXT, as a probe server does, until it is killed
 *
 * Built static, so that it starts as fast as a program can: no loader, nothing to bind.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Larger than any answer of the bench's server and of the probe server. */
#define ANSWER_BYTES_MAX 16384

static int fail(const char *what) {
    perror(what);
    return 1;
}

/* Sends the request, and reads the head and as much of the body as the head announces. */
static int exchange(int socket, const char *request, char *answer) {
    size_t asked = strlen(request), got = 0;
    if (write(socket, request, asked) != (ssize_t)asked) return fail("write");
    for (;;) {
        ssize_t read_now = read(socket, answer + got, ANSWER_BYTES_MAX - 1 - got);
        if (read_now < 0) return fail("read");
        got += (size_t)read_now;
        answer[got] = 0;
        char *end = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "content-length: ");
        if (end && length && length < end && strlen(end + 4) >= strtoul(length + 16, NULL, 10)) return 0;
        if (read_now == 0 || got == ANSWER_BYTES_MAX - 1) {
            fprintf(stderr, "the answer is cut off\n");
            return 1;
        }
    }
}

static int serve(const struct sockaddr_in *address, const char *text) {
    char request[2048], answer[512];
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int length = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %zu\r\n\r\n%s", strlen(text), text);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes)) return fail("socket");
    if (bind(listener, (const struct sockaddr *)address, sizeof *address) || listen(listener, 64)) return fail("bind");
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) return fail("accept");
        if (read(connection, request, sizeof request) > 0 && write(connection, answer, (size_t)length) != length) return fail("write");
        shutdown(connection, SHUT_WR);
        close(connection);
    }
}

int main(int count, char **arguments) {
    char request[2048], body[512], answer[ANSWER_BYTES_MAX];
    if (count != 5) return 64;
    int probe = strcmp(arguments[1], "probe") == 0;
    const char *host = arguments[2], *port = arguments[3], *last = arguments[4];
    if (probe) {
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nhost: %s:%s\r\n\r\n", last, host, port);
    } else {
        int length = snprintf(body, sizeof body, "{\"ProductCode\":\"demohourly\",\"PublicKeyVersion\":1,\"Nonce\":\"%s\"}", last);
        snprintf(request, sizeof request,
                 "POST / HTTP/1.1\r\nhost: %s:%s\r\ncontent-type: application/x-amz-json-1.1\r\n"
                 "x-amz-target: AWSMPMeteringService.RegisterUsage\r\ncontent-length: %d\r\n\r\n%s",
                 host, port, length, body);
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) return 64;
    if (strcmp(arguments[1], "serve") == 0) return serve(&address, last);
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address)) return fail("connect");
    if (exchange(connection, request, answer)) return 1;
    if (strncmp(answer, "HTTP/1.1 200 ", 13)) return 1;
    const char *wanted = probe ? "\"gate\":\"open\"" : "\"Signature\":\"";
    return strstr(answer, wanted) == NULL;
}
