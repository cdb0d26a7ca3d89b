package scenario

import (
	"os"

	"github.com/koi-net/koi-operator/hack/bench/subject"
)

// meters measure a node and, beside it, this program as its client.
type meters struct {
	node, client *subject.Meter
	share        float64 // of one core that the client took, in percent
	clientErr    error
	done         bool
}

func measure(n subject.Node) (*meters, error) {
	m := &meters{}
	var err error
	if m.client, err = subject.Measure(os.Getpid()); err != nil {
		return nil, err
	}
	if m.node, err = subject.Measure(n.PID()); err != nil {
		m.clientDone()
		return nil, err
	}
	return m, nil
}

// clientDone ends the client's part: its load has ended.
func (m *meters) clientDone() {
	if m.done {
		return
	}
	m.done = true
	usage, err := m.client.Stop()
	m.share, m.clientErr = 100*usage.CPU.Seconds()/usage.Wall.Seconds(), err
}

// stop ends the measurement and returns the node's usage and the client's share.
func (m *meters) stop() (subject.Usage, float64, error) {
	m.clientDone()
	usage, err := m.node.Stop()
	if err == nil {
		err = m.clientErr
	}
	return usage, m.share, err
}
