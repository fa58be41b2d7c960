// The emulator, and sidecars that ask it, for tests with JUnit. Copy this file beside your tests; it needs only the JDK (17 or newer).
//
// The variable TOLLGATE names the program, a development build (tollgate in PATH otherwise). With TOLLGATE_EMULATOR, such as
// http://127.0.0.1:8090, an emulator that already runs is used, such as the service container of a CI job.
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.Writer;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** The emulator of docs/EMULATOR.md, in AWS's place, without earlier calls. {@link #close} ends it and its sidecars. */
public final class Rehearsal implements AutoCloseable {
    /** What AWS would bill for an hour, a dimension and a pod. */
    public record Billed(String dimension, String hour, String quantity) {}

    /** The account of pods that name no other. */
    public static final String BUYER = "111122223333";

    private static final String PROGRAM = System.getenv().getOrDefault("TOLLGATE", "tollgate");
    private static final Duration PATIENCE = Duration.ofMinutes(1);
    private static final Duration LOOK_EVERY = Duration.ofMillis(50);
    private static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** Where the emulator listens, such as http://127.0.0.1:8090. */
    public final String endpoint;
    private final boolean ours;
    private final List<Process> processes = new ArrayList<>();
    private final List<Path> folders = new ArrayList<>();

    public Rehearsal() throws Exception {
        String running = System.getenv("TOLLGATE_EMULATOR");
        ours = running == null;
        if (ours) {
            ProcessBuilder emulator = new ProcessBuilder(PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json");
            Process process = start(emulator.redirectError(ProcessBuilder.Redirect.INHERIT));
            // It prints its first line when it is ready.
            String line = process.inputReader().readLine();
            if (line == null) throw new AssertionError(PROGRAM + " ended before it was ready");
            endpoint = member("endpoint", line);
        } else {
            endpoint = running.replaceFirst("/$", "");
            order("reset", "{}");
        }
    }

    /** Posts to the admin interface, such as {@code order("clock", "{\"advance\": \"1h\"}")}; returns the answer. */
    public String order(String path, String order) throws Exception {
        return post(endpoint + "/_emulator/" + path, order);
    }

    /** Reads from the admin interface, such as {@code "faults"}. */
    public String read(String path) throws Exception {
        return checked(get(endpoint + "/_emulator/" + path)).body();
    }

    /** Subscribes or unsubscribes the buyer. */
    public void subscribe(boolean subscribed) throws Exception {
        order("customers", "{\"account_id\": \"" + BUYER + "\", \"subscribed\": " + subscribed + "}");
    }

    /** Refuses the next calls of an operation, as AWS does above its quota. */
    public void throttle(String operation, int count) throws Exception {
        order("faults", "{\"fault\": \"throttle\", \"operation\": \"" + operation + "\", \"count\": " + count + "}");
    }

    /** Moves the clock of the emulator and of every sidecar, such as "1h". */
    public void advance(String duration) throws Exception {
        order("clock", "{\"advance\": \"" + duration + "\"}");
    }

    /** What AWS would bill for a pod, in the order of hours. */
    public List<Billed> bill(String pod) throws Exception {
        String[] lines = read("ledger?format=csv&pod=" + pod).split("\r?\n");
        List<String> columns = List.of(lines[0].split(","));
        return Arrays.stream(lines).skip(1).map(line -> line.split(",", -1)).map(row -> new Billed(
            row[columns.indexOf("dimension")], row[columns.indexOf("hour")], row[columns.indexOf("quantity")])).toList();
    }

    /** Starts a sidecar that asks this emulator, with settings of docs/CONFIGURATION.md by their names. */
    public Sidecar sidecar(String pod, Map<String, String> settings) throws Exception {
        return new Sidecar(pod, settings);
    }

    /** Ends what was started, as a platform does. An emulator that already ran is reset. */
    @Override
    public void close() throws Exception {
        for (int last = processes.size() - 1; last >= 0; last--) {
            processes.get(last).destroy();
            processes.get(last).waitFor();
        }
        for (Path folder : folders) {
            try (Stream<Path> paths = Files.walk(folder)) {
                paths.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
            }
        }
        if (!ours) order("reset", "{}");
    }

    /** {@code tollgate run}; its name is a pod of the emulator. */
    public final class Sidecar {
        /** Where your application reports usage, such as 127.0.0.1:19181. */
        public final String app;
        private final String pod;
        private final String probe;

        private Sidecar(String pod, Map<String, String> settings) throws Exception {
            this.pod = pod;
            Path folder = Files.createTempDirectory("tollgate");
            folders.add(folder);
            ProcessBuilder command = new ProcessBuilder(PROGRAM, "run");
            Map<String, String> environment = command.environment();
            environment.clear();
            environment.putAll(Map.of("AWS_REGION", "us-east-1", "AWS_EC2_METADATA_DISABLED", "true",
                "AWS_ACCESS_KEY_ID", pod, "AWS_SECRET_ACCESS_KEY", "any"));
            environment.putAll(Map.of("TOLLGATE_POD_UID", pod, "TOLLGATE_STATE_DIR", folder.resolve("state").toString(),
                "TOLLGATE_LOG_FORMAT", "json", "TOLLGATE_ENDPOINT_URL", endpoint, "TOLLGATE_CLOCK", endpoint + "/_emulator/clock",
                "TOLLGATE_PROBE_ADDR", "127.0.0.1:0", "TOLLGATE_APP_ADDR", "127.0.0.1:0"));
            if (settings.getOrDefault("mode", "hourly").equals("hourly")) {
                Path key = folder.resolve("1.pem");
                Files.writeString(key, read("public-keys/" + settings.get("product_code") + "/1.pem"));
                environment.put("TOLLGATE_PUBLIC_KEYS", key.toString());
            }
            settings.forEach((name, value) -> environment.put("TOLLGATE_" + name.toUpperCase(Locale.ROOT), value));
            BufferedReader log = start(command.redirectOutput(ProcessBuilder.Redirect.DISCARD)).errorReader();
            StringBuilder said = new StringBuilder();
            String line;
            do {
                line = log.readLine();
                if (line == null) throw new AssertionError("the sidecar ended before it started:\n" + said);
                said.append(line).append('\n');
            } while (!line.contains("\"event\":\"started\""));
            app = member("app_addr", line);
            probe = "http://" + member("probe_addr", line);
            // Reads the log from here on, so that a full pipe does not block the sidecar.
            Thread reader = new Thread(() -> {
                try {
                    log.transferTo(Writer.nullWriter());
                } catch (IOException closed) {
                    // The sidecar was ended.
                }
            });
            reader.setDaemon(true);
            reader.start();
        }

        /** Waits until the gate's state is this one, such as entitled or denied; returns the document of the gate. */
        public String waitFor(String state) throws Exception {
            return await("state " + state, () -> {
                String seen = get(probe + "/entitlement").body();
                return seen.contains("\"state\":\"" + state + "\"") ? seen : null;
            });
        }

        /** Reports usage, as your application does; for tests without one. */
        public void use(String dimension, int quantity) throws Exception {
            String event = "{\"dimension\": \"" + dimension + "\", \"quantity\": " + quantity + "}";
            String answer = post("http://" + app + "/v1/usage", event);
            if (!answer.contains("\"status\":\"accepted\"")) throw new AssertionError("usage was not accepted: " + answer);
        }

        /** Waits until AWS would bill this number of records of the pod; returns the records. */
        public List<Billed> waitForBill(int records) throws Exception {
            return await("bill with " + records + " records", () -> {
                List<Billed> bill = bill(pod);
                return bill.size() >= records ? bill : null;
            });
        }
    }

    private Process start(ProcessBuilder command) throws IOException {
        Process process = command.start();
        processes.add(process);
        return process;
    }

    private static String post(String address, String body) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(address)).header("content-type", "application/json");
        return checked(send(request.POST(HttpRequest.BodyPublishers.ofString(body)))).body();
    }

    private static HttpResponse<String> get(String address) throws Exception {
        return send(HttpRequest.newBuilder(URI.create(address)));
    }

    private static HttpResponse<String> send(HttpRequest.Builder request) throws Exception {
        return CLIENT.send(request.timeout(Duration.ofSeconds(10)).build(), HttpResponse.BodyHandlers.ofString());
    }

    private static HttpResponse<String> checked(HttpResponse<String> answer) {
        if (answer.statusCode() < 300) return answer;
        throw new AssertionError(answer.uri() + ": " + answer.statusCode() + " " + answer.body());
    }

    /** The value of a member that is a text without quotes. */
    private static String member(String name, String json) {
        Matcher found = Pattern.compile("\"" + name + "\":\"([^\"]+)\"").matcher(json);
        if (!found.find()) throw new AssertionError("no " + name + " in " + json);
        return found.group(1);
    }

    private static <T> T await(String what, Callable<T> look) throws Exception {
        for (long until = System.nanoTime() + PATIENCE.toNanos();; Thread.sleep(LOOK_EVERY.toMillis())) {
            T found = look.call();
            if (found != null) return found;
            if (System.nanoTime() > until) throw new AssertionError("no " + what + " within " + PATIENCE.toSeconds() + " s");
        }
    }
}
