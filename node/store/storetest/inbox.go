package storetest

import (
	"fmt"
	"slices"

	"github.com/koi-net/koi-operator/node/store"
)

var inboxTests = []namedTest{
	{"rows come back in order", testInboxOrder},
	{"numbers only ever grow", testInboxNumbers},
	{"deleting is idempotent", testInboxDelete},
	{"a zero time is now", testInboxTime},
}

// inbox lists the rows after seq.
func (e *env) inbox(after uint64) []store.InboxRow {
	e.Helper()
	var rows []store.InboxRow
	e.view(func(r store.Reader) error {
		rows = nil
		for row, err := range r.Inbox(after) {
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		if n, err := r.InboxLen(); err != nil || after == 0 && n != len(rows) {
			e.Errorf("InboxLen: %d, %v, there are %d", n, err, len(rows))
		}
		return nil
	})
	return rows
}

func (e *env) appendInbox(n int) []uint64 {
	e.Helper()
	var seqs []uint64
	e.update(func(w store.Writer) (err error) {
		var rows []store.InboxRow
		for i := range n {
			rows = append(rows, store.InboxRow{Seq: 7, RID: note(i), Data: fmt.Appendf(nil, "data %d", i), Accepted: when(i)})
		}
		seqs, err = w.AppendInbox(rows...)
		return err
	})
	if len(seqs) != n || !slices.IsSorted(seqs) {
		e.Fatalf("AppendInbox returned %v for %d rows", seqs, n)
	}
	return seqs
}

func testInboxOrder(e *env) {
	seqs := append(e.appendInbox(300), e.appendInbox(3)...)
	if got := e.appendInbox(0); len(got) != 0 {
		e.Errorf("no rows gave numbers %v", got)
	}
	rows := e.inbox(0)
	if len(rows) != 303 {
		e.Fatalf("%d rows", len(rows))
	}
	for n, row := range rows {
		i := n % 300
		if row.Seq != seqs[n] || row.RID != note(i) || string(row.Data) != fmt.Sprintf("data %d", i) || !row.Accepted.Equal(when(i)) {
			e.Fatalf("row %d: %+v", n, row)
		}
	}
	for _, n := range []int{0, 150, 301, 302} {
		if got := e.inbox(seqs[n]); len(got) != 302-n {
			e.Errorf("%d rows after number %d, want %d", len(got), n, 302-n)
		}
	}
	e.reopen()
	if got := e.inbox(0); len(got) != 303 {
		e.Errorf("%d rows after reopening", len(got))
	}
	e.check()
}

func testInboxNumbers(e *env) {
	var last uint64
	for round := range 4 {
		seqs := e.appendInbox(2)
		if seqs[0] <= last {
			e.Fatalf("round %d: number %d after %d", round, seqs[0], last)
		}
		last = seqs[1]
		e.update(func(w store.Writer) error { return w.DeleteInbox(seqs...) })
		if got := e.inbox(0); len(got) != 0 {
			e.Fatalf("rows after deleting all: %v", got)
		}
		if round%2 == 1 {
			e.reopen()
		}
	}
	e.check()
}

func testInboxDelete(e *env) {
	seqs := e.appendInbox(10)
	for range 2 {
		e.update(func(w store.Writer) error { return w.DeleteInbox(seqs[3], seqs[5], seqs[3], 0, 1<<60) })
	}
	rows := e.inbox(0)
	if len(rows) != 8 {
		e.Errorf("%d rows, want 8", len(rows))
	}
	for _, row := range rows {
		if row.Seq == seqs[3] || row.Seq == seqs[5] {
			e.Errorf("number %d is still there", row.Seq)
		}
	}
	e.check()
}

func testInboxTime(e *env) {
	e.update(func(w store.Writer) error {
		_, err := w.AppendInbox(store.InboxRow{RID: note(1)})
		return err
	})
	rows := e.inbox(0)
	if len(rows) != 1 || rows[0].Accepted.IsZero() || len(rows[0].Data) != 0 {
		e.Errorf("rows: %+v", rows)
	}
}
