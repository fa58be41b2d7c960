// The three rehearsals, with the emulator and the sidecars of Rehearsal.java.
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class RehearsalTest {
    static final Map<String, String> HOURLY = Map.of("product_code", "demohourly");
    static final Map<String, String> METERED = Map.of("mode", "metered", "product_code", "demometered", "dimensions", "requests,gigabytes");

    @Test
    void notEntitled() throws Exception {
        try (Rehearsal aws = new Rehearsal()) {
            aws.subscribe(false);
            String refused = aws.sidecar("refused", HOURLY).waitFor("denied");
            assertTrue(refused.contains("\"gate\":\"shut\"") && refused.contains("\"code\":\"CustomerNotEntitledException\""), refused);
            aws.subscribe(true);
            // The emulator does not change its answer to a pod, so this needs another pod.
            String admitted = aws.sidecar("admitted", HOURLY).waitFor("entitled");
            assertTrue(admitted.contains("\"gate\":\"open\""), admitted);
        }
    }

    @Test
    void throttled() throws Exception {
        try (Rehearsal aws = new Rehearsal()) {
            aws.throttle("RegisterUsage", 3);
            aws.sidecar("throttled", HOURLY).waitFor("entitled");
            String faults = aws.read("faults");
            assertTrue(faults.contains("\"hits\":3"), faults);
        }
    }

    @Test
    void aDayOfHours() throws Exception {
        try (Rehearsal aws = new Rehearsal()) {
            aws.order("clock", "{\"now\": \"2026-11-24T00:30:00Z\"}");
            Rehearsal.Sidecar pod = aws.sidecar("day", METERED);
            pod.waitFor("entitled");
            for (int hour = 0; hour < 24; hour++) {
                pod.use("requests", hour + 1);
                aws.advance("1h");
                pod.waitForBill(hour + 1);
            }
            List<Rehearsal.Billed> day = IntStream.range(0, 24).mapToObj(hour ->
                new Rehearsal.Billed("requests", String.format("2026-11-24T%02d:00:00Z", hour), String.valueOf(hour + 1))).toList();
            assertEquals(day, aws.bill("day"));
        }
    }
}
