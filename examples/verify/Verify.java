// Asks the sidecar for AWS's answer to its own nonce and verifies it. Needs only the JDK (17 or
// newer). Usage: java Verify.java http://127.0.0.1:19181 PUBLIC_KEY.pem PRODUCT_CODE
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.SecureRandom;
import java.security.Signature;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PSSParameterSpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Base64;

public class Verify {
    public static void main(String[] args) throws Exception {
        byte[] random = new byte[32];
        new SecureRandom().nextBytes(random);
        String nonce = Base64.getUrlEncoder().withoutPadding().encodeToString(random);
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[0] + "/v1/attestations"))
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString("{\"nonce\":\"" + nonce + "\"}")).build();
        String body = HttpClient.newHttpClient().send(request, BodyHandlers.ofString()).body();
        String[] parts = body.replaceAll(".*\"token\":\"([^\"]+)\".*", "$1").split("\\.");
        String pem = Files.readString(Path.of(args[1])).replaceAll("-----[^-]+-----|\\s", "");
        Signature verifier = Signature.getInstance("RSASSA-PSS");
        verifier.setParameter(new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1));
        verifier.initVerify(KeyFactory.getInstance("RSA").generatePublic(new X509EncodedKeySpec(Base64.getDecoder().decode(pem))));
        verifier.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
        String header = new String(Base64.getUrlDecoder().decode(parts[0]), StandardCharsets.UTF_8);
        String claims = new String(Base64.getUrlDecoder().decode(parts[1]), StandardCharsets.UTF_8);
        boolean good = header.contains("\"PS256\"") && verifier.verify(Base64.getUrlDecoder().decode(parts[2]))
            && claims.contains("\"nonce\":\"" + nonce + "\"") && claims.contains("\"productCode\":\"" + args[2] + "\"");
        if (!good) {
            System.err.println("not entitled");
            System.exit(1);
        }
        System.out.println("entitled");
    }
}
