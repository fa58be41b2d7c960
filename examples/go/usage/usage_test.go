package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"example.com/rehearsal"
)

// Your application reports usage, an hour passes, and what AWS would bill is compared. In the place of report: your application.

func start(t *testing.T) (*rehearsal.Emulator, *rehearsal.Sidecar) {
	emulator := rehearsal.NewEmulator(t)
	emulator.Order("clock", map[string]string{"now": "2026-11-24T08:30:00Z"})
	settings := map[string]string{"mode": "metered", "product_code": "demometered", "dimensions": "requests,gigabytes"}
	pod := emulator.Sidecar("pod-1", settings)
	pod.WaitFor("entitled")
	address = strings.TrimPrefix(pod.App, "http://")
	return emulator, pod
}

func billed(requests string) []rehearsal.Record {
	return []rehearsal.Record{{ProductCode: "demometered", Dimension: "requests", Hour: "2026-11-24T08:00:00Z", Quantity: requests}}
}

func TestEachJobIsBilledOnce(t *testing.T) {
	emulator, pod := start(t)
	jobs := []struct {
		id       string
		requests float64
	}{{"job-17", 12.5}, {"job-17", 12.5}, {"job-18", 2}} // job-17 again, as after a crash
	for _, job := range jobs {
		if err := report(context.Background(), "requests", job.requests, job.id); err != nil {
			t.Fatal(err)
		}
	}
	emulator.Advance("1h")
	if bill := pod.WaitForBill(1); !slices.Equal(bill, billed("14.5")) {
		t.Errorf("billed %+v", bill)
	}
}

func TestAMisspeltDimensionIsTold(t *testing.T) {
	emulator, pod := start(t)
	if err := report(context.Background(), "reqests", 1, "job-19"); err == nil || !strings.Contains(err.Error(), "reqests") {
		t.Errorf("it said %v", err)
	}
	if err := report(context.Background(), "requests", 1, "job-19"); err != nil {
		t.Fatal(err)
	}
	emulator.Advance("1h")
	if bill := pod.WaitForBill(1); !slices.Equal(bill, billed("1")) {
		t.Errorf("billed %+v", bill)
	}
}
