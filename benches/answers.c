/* AWS's answers for benches/start.py: signs RegisterUsage with a key of the bench, and accepts every other call.
 *
 * answers KEY.pem
 *
 * Prints the port that it listens on, and serves plain HTTP/1.1 with kept connections, in one thread: what is measured is the
 * client. The emulator cannot take its place: a released build does not accept the emulator's answers. Needs libcrypto.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/tcp.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 64
#define REQUEST_BYTES_MAX 65536

static EVP_PKEY *key;
static struct { size_t got; char bytes[REQUEST_BYTES_MAX + 1]; } requests[CONNECTIONS_MAX];

static void die(const char *what) {
    fprintf(stderr, "answers: %s\n", what);
    exit(1);
}

/* Base64 for URLs without padding (RFC 7515, section 2). */
static size_t base64url(char *out, const unsigned char *in, size_t length) {
    int written = EVP_EncodeBlock((unsigned char *)out, in, (int)length);
    while (written > 0 && out[written - 1] == '=') written--;
    for (int at = 0; at < written; at++) {
        if (out[at] == '+') out[at] = '-';
        if (out[at] == '/') out[at] = '_';
    }
    out[written] = 0;
    return (size_t)written;
}

/* A token as AWS signs it: a JWT by PS256. */
static void token(char *out, const char *product, const char *nonce) {
    static const char header[] = "{\"alg\":\"PS256\",\"typ\":\"JWT\"}";
    char claims[1024];
    int length = snprintf(claims, sizeof claims, "{\"productCode\":\"%s\",\"nonce\":\"%s\",\"publicKeyVersion\":1,\"iat\":%ld}",
                          product, nonce, (long)time(NULL));
    size_t at = base64url(out, (const unsigned char *)header, sizeof header - 1);
    out[at++] = '.';
    at += base64url(out + at, (const unsigned char *)claims, (size_t)length);
    unsigned char signature[1024];
    size_t signed_bytes = sizeof signature;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *scheme;
    if (!context || EVP_DigestSignInit(context, &scheme, EVP_sha256(), NULL, key) != 1 ||
        EVP_PKEY_CTX_set_rsa_padding(scheme, RSA_PKCS1_PSS_PADDING) != 1 ||
        EVP_PKEY_CTX_set_rsa_pss_saltlen(scheme, RSA_PSS_SALTLEN_DIGEST) != 1 ||
        EVP_DigestSign(context, signature, &signed_bytes, (unsigned char *)out, at) != 1)
        die("cannot sign");
    EVP_MD_CTX_free(context);
    out[at++] = '.';
    base64url(out + at, signature, signed_bytes);
}

/* The text of a member of the request's JSON; the bench's requests have no escapes. */
static const char *member(const char *body, const char *name, char *out, size_t room) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":\"", name);
    const char *from = strstr(body, quoted);
    if (!from) die("a request without ProductCode or Nonce");
    from += strlen(quoted);
    size_t length = strcspn(from, "\"");
    if (length >= room) die("a member is too long");
    memcpy(out, from, length);
    out[length] = 0;
    return out;
}

/* Answers what is whole in the buffer; returns whether the connection goes on. */
static int answer(int connection, size_t slot) {
    char *bytes = requests[slot].bytes, product[256], nonce[512], body[8192], head[256], signed_token[6144];
    char *end = strstr(bytes, "\r\n\r\n"), *length_text = strcasestr(bytes, "content-length: ");
    if (!end) return requests[slot].got < REQUEST_BYTES_MAX;
    size_t expected = length_text && length_text < end ? strtoul(length_text + 16, NULL, 10) : 0;
    if (strlen(end + 4) < expected) return requests[slot].got < REQUEST_BYTES_MAX;
    if (strcasestr(bytes, "MeteringService.RegisterUsage")) {
        token(signed_token, member(end, "ProductCode", product, sizeof product), member(end, "Nonce", nonce, sizeof nonce));
        snprintf(body, sizeof body, "{\"Signature\":\"%s\"}", signed_token);
    } else {
        snprintf(body, sizeof body, "{\"MeteringRecordId\":\"1\"}");
    }
    int head_length = snprintf(head, sizeof head,
                               "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\nx-amzn-requestid: 1\r\n"
                               "content-length: %zu\r\n\r\n", strlen(body));
    memmove(body + head_length, body, strlen(body) + 1);
    memcpy(body, head, (size_t)head_length);
    requests[slot].got = 0;
    size_t all = strlen(body);
    return write(connection, body, all) == (ssize_t)all;
}

int main(int count, char **arguments) {
    if (count != 2) die("give the key's file");
    FILE *file = fopen(arguments[1], "r");
    if (!file || !(key = PEM_read_PrivateKey(file, NULL, NULL, NULL))) die("cannot read the key");
    fclose(file);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, CONNECTIONS_MAX) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        die("cannot listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct pollfd polled[CONNECTIONS_MAX + 1] = {{.fd = listener, .events = POLLIN}};
    for (size_t slot = 0; slot < CONNECTIONS_MAX; slot++) polled[slot + 1] = (struct pollfd){.fd = -1, .events = POLLIN};
    while (poll(polled, CONNECTIONS_MAX + 1, -1) > 0) {
        for (size_t slot = 0; slot < CONNECTIONS_MAX; slot++) {
            struct pollfd *entry = &polled[slot + 1];
            if (entry->fd < 0 || !entry->revents) continue;
            char *bytes = requests[slot].bytes;
            ssize_t got = read(entry->fd, bytes + requests[slot].got, REQUEST_BYTES_MAX - requests[slot].got);
            if (got > 0) bytes[requests[slot].got += (size_t)got] = 0;
            if (got <= 0 || !answer(entry->fd, slot)) {
                close(entry->fd);
                entry->fd = -1;
                requests[slot].got = 0;
            }
        }
        if (polled[0].revents) {
            int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            size_t slot = 0;
            while (slot < CONNECTIONS_MAX && polled[slot + 1].fd >= 0) slot++;
            if (slot == CONNECTIONS_MAX) die("too many connections");
            polled[slot + 1].fd = connection;
        }
    }
    return 0;
}
