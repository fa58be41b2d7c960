package rehearsal

import (
	"fmt"
	"strconv"
	"testing"
)

// The three rehearsals: TOLLGATE=$PWD/target/debug/tollgate go test ./examples/go

var (
	hourly  = map[string]string{"product_code": "demohourly"}
	metered = map[string]string{"mode": "metered", "product_code": "demometered", "dimensions": "requests,gigabytes"}
)

func TestNotEntitled(t *testing.T) {
	emulator := NewEmulator(t)
	emulator.Subscribe(false)
	refused := emulator.Sidecar("refused", hourly).WaitFor("denied")
	if refused.Gate != "shut" || refused.Reason.Code != "CustomerNotEntitledException" {
		t.Errorf("refused: %+v", refused)
	}
	emulator.Subscribe(true)
	// The emulator does not change its answer to a pod, so this needs another pod.
	if admitted := emulator.Sidecar("admitted", hourly).WaitFor("entitled"); admitted.Gate != "open" {
		t.Errorf("admitted: %+v", admitted)
	}
}

func TestThrottled(t *testing.T) {
	emulator := NewEmulator(t)
	emulator.Throttle("RegisterUsage", 3)
	emulator.Sidecar("throttled", hourly).WaitFor("entitled")
	var faults struct{ Rules []struct{ Hits int } }
	fetch(t, "GET", emulator.Endpoint+"/_emulator/faults", nil, &faults)
	if len(faults.Rules) != 1 || faults.Rules[0].Hits != 3 {
		t.Errorf("faults: %+v", faults)
	}
}

func TestADayOfHours(t *testing.T) {
	emulator := NewEmulator(t)
	emulator.Order("clock", map[string]any{"now": "2026-11-24T00:30:00Z"})
	pod := emulator.Sidecar("day", metered)
	pod.WaitFor("entitled")
	for hour := range 24 {
		pod.Use("requests", hour+1)
		emulator.Advance("1h")
		bill := pod.WaitForBill(hour + 1)
		last := bill[len(bill)-1]
		if last.Hour != fmt.Sprintf("2026-11-24T%02d:00:00Z", hour) || last.Quantity != strconv.Itoa(hour+1) || len(bill) != hour+1 {
			t.Fatalf("hour %d: %+v", hour, bill)
		}
	}
}
