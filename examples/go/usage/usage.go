// Reports usage to tollgate. Copy report and what it calls into your application: it needs only the standard library
// (Go 1.22 or newer). Usage: go run ./usage DIMENSION QUANTITY [ID]
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

var address = cmp.Or(os.Getenv("TOLLGATE_APP_ADDR"), "127.0.0.1:19181")

// tollgate answers within 30 seconds.
var client = &http.Client{Timeout: 35 * time.Second, Transport: &http.Transport{DialContext: dial}}

// report returns when tollgate has the event on disk, and retries until then or until the context ends. It fails for an
// event that tollgate rejects.
func report(ctx context.Context, dimension string, quantity float64, id string) error {
	// The id is given, or made once and kept: tollgate knows a repeat by it, and counts the event once. `tags` and
	// `customer` belong here, too.
	event, err := json.Marshal(map[string]string{
		"id": cmp.Or(id, randomID()), "dimension": dimension, "quantity": strconv.FormatFloat(quantity, 'f', 6, 64),
	})
	if err != nil {
		return err
	}
	for {
		status, wait, said, err := post(ctx, event)
		switch {
		case err != nil:
			// Away, or the answer was lost: perhaps the event counts already.
			wait, said = 1, []byte(err.Error())
		case status == http.StatusAccepted && !rejected(said):
			return nil
		case status != http.StatusRequestTimeout && status != http.StatusServiceUnavailable:
			return fmt.Errorf("tollgate does not take the event %s: %d %s", event, status, said)
		}
		log.Printf("tollgate: %s; trying again in %d s", said, wait)
		select {
		case <-time.After(time.Duration(wait) * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// post is one attempt: the status, the seconds to wait before another, and the body.
func post(ctx context.Context, event []byte) (status, wait int, said []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/v1/usage", bytes.NewReader(event))
	if err != nil {
		return 0, 0, nil, err
	}
	request.Header.Set("content-type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return 0, 0, nil, err
	}
	defer answer.Body.Close()
	said, err = io.ReadAll(answer.Body)
	wait, _ = strconv.Atoi(cmp.Or(answer.Header.Get("retry-after"), "1"))
	return answer.StatusCode, wait, said, err
}

func rejected(said []byte) bool {
	var answer struct{ Results []struct{ Status string } }
	return json.Unmarshal(said, &answer) != nil || len(answer.Results) != 1 || answer.Results[0].Status == "rejected"
}

// dial connects to the address as app_addr has it: IP:port, or unix:/path.
func dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var dialer net.Dialer
	if path, is := strings.CutPrefix(address, "unix:"); is {
		return dialer.DialContext(ctx, "unix", path)
	}
	return dialer.DialContext(ctx, "tcp", address)
}

func randomID() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	return fmt.Sprintf("%x", random)
}

func main() {
	quantity, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		log.Fatal(err)
	}
	id := ""
	if len(os.Args) > 3 {
		id = os.Args[3]
	}
	if err := report(context.Background(), os.Args[1], quantity, id); err != nil {
		log.Fatal(err)
	}
}
