// Asks the sidecar for AWS's answer to its own nonce and verifies it. Needs only the standard
// library. Usage: go run verify.go http://127.0.0.1:19181 PUBLIC_KEY.pem PRODUCT_CODE
package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal("not entitled: ", err)
	}
	return value
}

func main() {
	random := make([]byte, 32)
	must(rand.Read(random))
	nonce := base64.RawURLEncoding.EncodeToString(random)
	body := bytes.NewBufferString(fmt.Sprintf(`{"nonce":%q}`, nonce))
	answer := must(http.Post(os.Args[1]+"/v1/attestations", "application/json", body))
	var attestation struct{ Token string }
	must(0, json.NewDecoder(answer.Body).Decode(&attestation))
	parts := strings.Split(attestation.Token, ".")
	if len(parts) != 3 {
		log.Fatal("not entitled: no token")
	}
	block, _ := pem.Decode(must(os.ReadFile(os.Args[2])))
	key := must(x509.ParsePKIXPublicKey(block.Bytes)).(*rsa.PublicKey)
	var header struct{ Alg string }
	must(0, json.Unmarshal(must(base64.RawURLEncoding.DecodeString(parts[0])), &header))
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature := must(base64.RawURLEncoding.DecodeString(parts[2]))
	must(0, rsa.VerifyPSS(key, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: 32}))
	var claims struct{ Nonce, ProductCode string }
	must(0, json.Unmarshal(must(base64.RawURLEncoding.DecodeString(parts[1])), &claims))
	if header.Alg != "PS256" || claims.Nonce != nonce || claims.ProductCode != os.Args[3] {
		log.Fatal("not entitled: the token answers another question")
	}
	fmt.Println("entitled")
}
