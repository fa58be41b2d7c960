// cosign's own verification of signatures and attestations by a key, without a transparency log: the code that `cosign
// verify --key` and
// // `cosign verify-attestation --key` call. The whole command contains every cloud's key store and takes too long to
// build.
//
// Usage: cosign KEY IMAGE…   prints a line for each image: its signatures and the types of its attestations.
package main

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/cosign/v3/pkg/cosign"
	"github.com/sigstore/cosign/v3/pkg/oci"
	"github.com/sigstore/sigstore/pkg/signature"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(key string, images []string) error {
	verifier, err := signature.LoadVerifierFromPEMFile(key, crypto.SHA256)
	if err != nil {
		return err
	}
	options := cosign.CheckOpts{SigVerifier: verifier, IgnoreTlog: true, Offline: true}
	for _, image := range images {
		reference, err := name.ParseReference(image)
		if err != nil {
			return err
		}
		options.ClaimVerifier = cosign.SimpleClaimVerifier
		signatures, _, err := cosign.VerifyImageSignatures(context.Background(), reference, &options)
		if err != nil {
			return err
		}
		options.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
		attestations, _, err := cosign.VerifyImageAttestations(context.Background(), reference, &options)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("signatures: %d, attestations:", len(signatures))
		for _, attestation := range attestations {
			kind, err := predicateType(attestation)
			if err != nil {
				return err
			}
			line += " " + kind
		}
		fmt.Println(line)
	}
	return nil
}

func predicateType(attestation oci.Signature) (string, error) {
	envelope, err := attestation.Payload()
	if err != nil {
		return "", err
	}
	var outer struct{ Payload string }
	var inner struct{ PredicateType string }
	if err := json.Unmarshal(envelope, &outer); err != nil {
		return "", err
	}
	statement, err := base64.StdEncoding.DecodeString(outer.Payload)
	if err != nil {
		return "", err
	}
	err = json.Unmarshal(statement, &inner)
	return inner.PredicateType, err
}
