// Package rehearsal starts the emulator, and sidecars that ask it, for Go tests. Copy this file into your module; it
// needs only the standard library.
//
// The variable TOLLGATE names the program, a development build (tollgate in PATH otherwise). With TOLLGATE_EMULATOR,
// such as http://127.0.0.1:8090, an emulator that already runs is used, such as the service container of a CI job.
package rehearsal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Buyer is the account of pods that name no other.
const Buyer = "111122223333"

const (
	patience  = time.Minute
	lookEvery = 50 * time.Millisecond
)

var client = &http.Client{Timeout: 10 * time.Second}

// Emulator is the emulator of docs/EMULATOR.md, in AWS's place.
type Emulator struct {
	Endpoint string
	t        *testing.T
}

// Record is what AWS would bill for an hour, a dimension and a pod.
type Record struct {
	ProductCode string `json:"product_code"`
	Dimension   string
	Hour        string
	Quantity    string
}

// Entitlement is the document of the gate.
type Entitlement struct {
	State  string
	Gate   string
	Reason struct{ Code, Message string }
}

// NewEmulator starts an emulator without earlier calls, which ends with the test. An emulator that
// already runs is reset before the test and after it.
func NewEmulator(t *testing.T) *Emulator {
	t.Helper()
	if endpoint := os.Getenv("TOLLGATE_EMULATOR"); endpoint != "" {
		running := &Emulator{strings.TrimSuffix(endpoint, "/"), t}
		reset := func() { running.Order("reset", map[string]any{}) }
		reset()
		// A test that failed may have left a buyer who is not subscribed.
		t.Cleanup(reset)
		return running
	}
	command := exec.Command(program(), "emulator", "--addr", "127.0.0.1:0", "--json")
	output, err := command.StdoutPipe()
	check(t, err)
	start(t, command)
	// It prints its first line when it is ready.
	line, err := bufio.NewReader(output).ReadBytes('\n')
	check(t, err)
	var facts struct{ Endpoint string }
	check(t, json.Unmarshal(line, &facts))
	return &Emulator{facts.Endpoint, t}
}

// Order posts to the admin interface, such as Order("clock", map[string]any{"advance": "1h"}).
func (e *Emulator) Order(path string, order any) {
	e.t.Helper()
	body, err := json.Marshal(order)
	check(e.t, err)
	fetch(e.t, http.MethodPost, e.Endpoint+"/_emulator/"+path, body, nil)
}

// Subscribe subscribes or unsubscribes the buyer.
func (e *Emulator) Subscribe(subscribed bool) {
	e.t.Helper()
	e.Order("customers", map[string]any{"account_id": Buyer, "subscribed": subscribed})
}

// Throttle refuses the next calls of an operation, as AWS does above its quota.
func (e *Emulator) Throttle(operation string, count int) {
	e.t.Helper()
	e.Order("faults", map[string]any{"fault": "throttle", "operation": operation, "count": count})
}

// Advance moves the clock of the emulator and of every sidecar, such as "1h".
func (e *Emulator) Advance(duration string) {
	e.t.Helper()
	e.Order("clock", map[string]any{"advance": duration})
}

// Ledger is what AWS would bill for a pod, in the order of hours.
func (e *Emulator) Ledger(pod string) []Record {
	e.t.Helper()
	var ledger struct{ Records []Record }
	fetch(e.t, http.MethodGet, e.Endpoint+"/_emulator/ledger?pod="+url.QueryEscape(pod), nil, &ledger)
	return ledger.Records
}

// PublicKey is the first version of a product's key, as the portal would show it.
func (e *Emulator) PublicKey(productCode string) []byte {
	e.t.Helper()
	return fetch(e.t, http.MethodGet, e.Endpoint+"/_emulator/public-keys/"+productCode+"/1.pem", nil, nil)
}

// Sidecar is `tollgate run`; its name is a pod of the emulator.
type Sidecar struct {
	App, Probe, Pod string
	emulator        *Emulator
	t               *testing.T
}

// Sidecar starts one with settings of docs/CONFIGURATION.md by their names; it ends with the test.
func (e *Emulator) Sidecar(pod string, settings map[string]string) *Sidecar {
	t := e.t
	t.Helper()
	folder := t.TempDir()
	all := map[string]string{
		"pod_uid": pod, "state_dir": filepath.Join(folder, "state"), "log_format": "json",
		"endpoint_url": e.Endpoint, "clock": e.Endpoint + "/_emulator/clock",
		"probe_addr": "127.0.0.1:0", "app_addr": "127.0.0.1:0",
	}
	if mode := settings["mode"]; mode == "" || mode == "hourly" {
		all["public_keys"] = filepath.Join(folder, "1.pem")
		check(t, os.WriteFile(all["public_keys"], e.PublicKey(settings["product_code"]), 0o600))
	}
	for name, value := range settings {
		all[name] = value
	}
	command := exec.Command(program(), "run")
	command.Env = []string{
		"AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "AWS_ACCESS_KEY_ID=" + pod, "AWS_SECRET_ACCESS_KEY=any",
	}
	for name, value := range all {
		command.Env = append(command.Env, "TOLLGATE_"+strings.ToUpper(name)+"="+value)
	}
	log, err := command.StderrPipe()
	check(t, err)
	start(t, command)
	lines := bufio.NewScanner(log)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		var line struct {
			Event string
			App   string `json:"app_addr"`
			Probe string `json:"probe_addr"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Event == "started" {
			// Reads the output from here on, so that a full pipe does not block the sidecar.
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return &Sidecar{"http://" + line.App, "http://" + line.Probe, pod, e, t}
		}
	}
	t.Fatalf("the sidecar ended before it started:\n%s", strings.Join(said, "\n"))
	return nil
}

// WaitFor waits until the gate's state is this one, such as entitled or denied.
func (s *Sidecar) WaitFor(state string) Entitlement {
	s.t.Helper()
	var seen Entitlement
	wait(s.t, "state "+state, func() bool {
		answer, err := client.Get(s.Probe + "/entitlement")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		seen = Entitlement{}
		return json.NewDecoder(answer.Body).Decode(&seen) == nil && seen.State == state
	})
	return seen
}

// Use reports usage, as your application does; for tests without one.
func (s *Sidecar) Use(dimension string, quantity int) {
	s.t.Helper()
	event := fmt.Sprintf(`{"dimension":%q,"quantity":%d}`, dimension, quantity)
	var answer struct{ Results []struct{ Status string } }
	fetch(s.t, http.MethodPost, s.App+"/v1/usage", []byte(event), &answer)
	if len(answer.Results) != 1 || answer.Results[0].Status != "accepted" {
		s.t.Fatalf("usage was not accepted: %v", answer.Results)
	}
}

// WaitForBill waits until AWS would bill this number of records of the pod.
func (s *Sidecar) WaitForBill(records int) []Record {
	s.t.Helper()
	var bill []Record
	wait(s.t, fmt.Sprintf("bill with %d records", records), func() bool {
		bill = s.emulator.Ledger(s.Pod)
		return len(bill) >= records
	})
	return bill
}

func program() string {
	if named := os.Getenv("TOLLGATE"); named != "" {
		return named
	}
	return "tollgate"
}

// start runs a command until the end of the test, and then stops it as a platform does.
func start(t *testing.T, command *exec.Cmd) {
	t.Helper()
	check(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
	})
}

func fetch(t *testing.T, method, address string, body []byte, into any) []byte {
	t.Helper()
	request, err := http.NewRequest(method, address, bytes.NewReader(body))
	check(t, err)
	request.Header.Set("content-type", "application/json")
	answer, err := client.Do(request)
	check(t, err)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	check(t, err)
	if answer.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, address, answer.Status, content)
	}
	if into != nil {
		check(t, json.Unmarshal(content, into))
	}
	return content
}

func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !condition(); time.Sleep(lookEvery) {
		if time.Now().After(until) {
			t.Fatalf("no %s within %s", what, patience)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
