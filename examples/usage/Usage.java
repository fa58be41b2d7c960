// Reports usage to tollgate. Copy report() into your application: it needs only the JDK (17 or newer).
// Usage: java Usage.java DIMENSION QUANTITY [ID]
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Locale;
import java.util.UUID;
import java.util.regex.Pattern;

public class Usage {
    // IP:port. Java's HttpClient has no Unix sockets.
    static String address = System.getenv().getOrDefault("TOLLGATE_APP_ADDR", "127.0.0.1:19181");
    // A quote inside a text of JSON has a backslash before it, so this finds the member `status`.
    static final Pattern ACKNOWLEDGED = Pattern.compile("\"status\":\"(accepted|duplicate)\"");
    static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** Returns when tollgate has the event on disk, and retries until then. Throws for an event that tollgate rejects. */
    static void report(String dimension, double quantity, String id) throws InterruptedException {
        // The id is given, or made once and kept: tollgate knows a repeat by it, and counts the event once. `tags` and `customer`
        // belong here, too. Texts have no quotes or backslashes here; a JSON library writes any.
        String event = String.format(Locale.ROOT, "{\"id\":\"%s\",\"dimension\":\"%s\",\"quantity\":\"%.6f\"}",
            id == null ? UUID.randomUUID() : id, dimension, quantity);
        // tollgate answers within 30 seconds.
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + address + "/v1/usage")).timeout(Duration.ofSeconds(35))
            .header("content-type", "application/json").POST(HttpRequest.BodyPublishers.ofString(event)).build();
        while (true) {
            long wait = 1;
            String said;
            try {
                HttpResponse<String> answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
                int status = answer.statusCode();
                said = answer.body();
                if (status == 202 && ACKNOWLEDGED.matcher(said).find()) return;
                if (status != 408 && status != 503) {
                    throw new IllegalArgumentException("tollgate does not take the event " + event + ": " + status + " " + said);
                }
                wait = answer.headers().firstValueAsLong("retry-after").orElse(1);
            } catch (IOException error) {
                // Away, or the answer was lost: perhaps the event counts already.
                said = error.toString();
            }
            System.err.println("tollgate: " + said + "; trying again in " + wait + " s");
            Thread.sleep(Duration.ofSeconds(wait).toMillis());
        }
    }

    public static void main(String[] args) throws InterruptedException {
        report(args[0], Double.parseDouble(args[1]), args.length > 2 ? args[2] : null);
    }
}
