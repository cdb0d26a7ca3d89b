package subject

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ticks is the unit of CPU times in /proc, the same on every Linux.
const ticks = time.Second / 100

// Memory is what of a process is resident, in bytes.
type Memory struct {
	// Anonymous is the process's own memory; File is what it sees of files, the
	// kernel's cache of a mapped database among it, which costs nobody anything.
	Anonymous, File int64
}

// CPU returns the CPU time, of user and system, that a process has used.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return parseStat(text)
}

// parseStat reads user and system time of a process.
func parseStat(text []byte) (time.Duration, error) {
	// The second field is the program's name in parentheses, and may hold some.
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	const user, system = 14 - 3, 15 - 3 // the fields after the name begin with the third
	if end < 0 || len(fields) <= system {
		return 0, errors.New("CPU time: /proc/PID/stat has another form")
	}
	var sum time.Duration
	for _, f := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time: %w", err)
		}
		sum += time.Duration(n) * ticks
	}
	return sum, nil
}

// Resident returns what of a process is resident now.
func Resident(pid int) (Memory, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return Memory{}, fmt.Errorf("resident memory: %w", err)
	}
	return parseStatus(text)
}

// parseStatus reads the memory of a process.
func parseStatus(text []byte) (Memory, error) {
	var m Memory
	want := map[string]*int64{"RssAnon": &m.Anonymous, "RssFile": &m.File}
	found := 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		into := want[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("resident memory: %w", err)
		}
		*into = kib << 10
		found++
	}
	if found != len(want) {
		return Memory{}, errors.New("resident memory: /proc/PID/status has another form")
	}
	return m, nil
}

// Meter measures a process from when it is made until Stop.
type Meter struct {
	pid   int
	cpu   time.Duration
	began time.Time

	stop    chan struct{}
	sampler sync.WaitGroup
	peak    int64 // of anonymous memory; the sampler's until it has ended
}

// Usage is what a process used while it was measured.
type Usage struct {
	CPU time.Duration
	// Wall is how long it was measured.
	Wall time.Duration
	// End is its memory at the end, PeakAnonymous the highest anonymous one seen,
	// sampled.
	End           Memory
	PeakAnonymous int64
}

// samplePeriod is how often a Meter looks at the memory.
const samplePeriod = 50 * time.Millisecond

// Measure begins to measure a process.
func Measure(pid int) (*Meter, error) {
	cpu, err := CPU(pid)
	if err != nil {
		return nil, err
	}
	m := &Meter{pid: pid, cpu: cpu, began: time.Now(), stop: make(chan struct{})}
	m.sampler.Go(func() {
		tick := time.NewTicker(samplePeriod)
		defer tick.Stop()
		for {
			if now, err := Resident(pid); err == nil {
				m.peak = max(m.peak, now.Anonymous)
			}
			select {
			case <-tick.C:
			case <-m.stop:
				return
			}
		}
	})
	return m, nil
}

// Stop ends the measurement. It must be called once.
func (m *Meter) Stop() (Usage, error) {
	close(m.stop)
	m.sampler.Wait()
	cpu, err := CPU(m.pid)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{CPU: cpu - m.cpu, Wall: time.Since(m.began)}
	if u.End, err = Resident(m.pid); err != nil {
		return Usage{}, err
	}
	u.PeakAnonymous = max(m.peak, u.End.Anonymous)
	return u, nil
}
