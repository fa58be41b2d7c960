/* Reports one event to tollgate by its Unix socket: report-by-socket PATH EVENT. Prints the answer; ends with 0 if it is 202. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 3) return 64;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(arguments[1]) >= sizeof address.sun_path) return 64;
    strcpy(address.sun_path, arguments[1]);
    int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    if (stream < 0 || connect(stream, (struct sockaddr *)&address, sizeof address) != 0) {
        perror(arguments[1]);
        return 1;
    }
    dprintf(stream, "POST /v1/usage HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                    "Content-Length: %zu\r\n\r\n%s", strlen(arguments[2]), arguments[2]);
    char answer[4096];
    size_t length = 0;
    for (ssize_t part; length < sizeof answer - 1 && (part = read(stream, answer + length, sizeof answer - 1 - length)) > 0;) length += part;
    answer[length] = 0;
    puts(answer);
    return strncmp(answer, "HTTP/1.1 202 ", 13) != 0;
}
