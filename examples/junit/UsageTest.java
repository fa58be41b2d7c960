// Your application reports usage, an hour passes, and what AWS would bill is compared. In the place of Usage: your application.
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class UsageTest {
    Rehearsal aws;
    Rehearsal.Sidecar pod;

    @BeforeEach
    void start() throws Exception {
        aws = new Rehearsal();
        aws.order("clock", "{\"now\": \"2026-11-24T08:30:00Z\"}");
        pod = aws.sidecar("pod-1", Map.of("mode", "metered", "product_code", "demometered", "dimensions", "requests,gigabytes"));
        pod.waitFor("entitled");
        Usage.address = pod.app;
    }

    @AfterEach
    void stop() throws Exception {
        aws.close();
    }

    @Test
    void eachJobIsBilledOnce() throws Exception {
        Usage.report("requests", 12.5, "job-17");
        Usage.report("requests", 12.5, "job-17"); // again, as after a crash
        Usage.report("requests", 2, "job-18");
        aws.advance("1h");
        assertEquals(List.of(new Rehearsal.Billed("requests", "2026-11-24T08:00:00Z", "14.5")), pod.waitForBill(1));
    }

    @Test
    void aMisspeltDimensionIsTold() throws Exception {
        var error = assertThrows(IllegalArgumentException.class, () -> Usage.report("reqests", 1, "job-19"));
        assertTrue(error.getMessage().contains("reqests"), error.getMessage());
        Usage.report("requests", 1, "job-19");
        aws.advance("1h");
        assertEquals(List.of(new Rehearsal.Billed("requests", "2026-11-24T08:00:00Z", "1")), pod.waitForBill(1));
    }
}
