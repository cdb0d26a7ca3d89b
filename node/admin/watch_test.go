package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func change(i int) client.Change {
	return client.Change{Kind: client.ChangeBundle, Event: protocol.New, RID: rid.RID(fmt.Sprintf("orn:x:%d", i))}
}

// take reads n changes of a subscription.
func take(t *testing.T, f *Feed, since string, n int) []client.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []client.Change
	for c := range f.Subscribe(ctx, since) {
		if got = append(got, c); len(got) == n {
			return got
		}
	}
	t.Fatalf("the feed ended after %v, want %d changes", got, n)
	return nil
}

func TestFeedResume(t *testing.T) {
	f := NewFeed("s1", 4, func() time.Time { return noon })
	first := take(t, f, "", 1)[0]
	if first.Kind != client.ChangeHeartbeat || first.Token != f.Token() || !first.Time.Equal(noon) {
		t.Fatalf("a new watch begins with %+v", first)
	}
	for i := range 3 {
		f.Publish(change(i))
	}
	got := take(t, f, first.Token, 3)
	for i, c := range got {
		if c.RID != change(i).RID || !c.Time.Equal(noon) || c.Token == "" {
			t.Errorf("change %d is %+v", i, c)
		}
	}
	if again := take(t, f, got[0].Token, 2); again[0].RID != "orn:x:1" || again[1].RID != "orn:x:2" {
		t.Errorf("resumed after the first: %v", again)
	}
	f.Publish(change(3))
	if c := take(t, f, got[2].Token, 1)[0]; c.RID != "orn:x:3" {
		t.Errorf("resumed after the third: %v", c)
	}
	// Four changes fit the ring exactly; one more pushes the oldest out.
	if c := take(t, f, first.Token, 4); c[0].RID != "orn:x:0" {
		t.Errorf("a full ring: %v", c)
	}
	f.Publish(change(4))
	if c := take(t, f, first.Token, 1)[0]; c.Kind != client.ChangeReset || c.Token != f.Token() {
		t.Errorf("a token that is too old gives %+v, want a reset", c)
	}
}

func TestFeedTokensOfOthers(t *testing.T) {
	a, b := NewFeed("s1", 4, nil), NewFeed("s1", 4, nil)
	a.Publish(change(0))
	for _, token := range []string{a.Token(), NewFeed("s2", 4, nil).Token(), "x", "..", b.Token() + "x", b.prefix + "-1", b.prefix + "99999999999999999999"} {
		if c := take(t, b, token, 1)[0]; c.Kind != client.ChangeReset {
			t.Errorf("token %q gives %+v, want a reset", token, c)
		}
	}
	// Who lists after the reset misses nothing that is published later.
	reset := take(t, b, a.Token(), 1)[0]
	b.Publish(change(7))
	if c := take(t, b, reset.Token, 1)[0]; c.RID != "orn:x:7" {
		t.Errorf("after the reset: %+v", c)
	}
}

func TestFeedSlowSubscriberGetsAResetAndNeverBlocks(t *testing.T) {
	f := NewFeed("s1", 8, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var kinds []client.ChangeKind
	for c := range f.Subscribe(ctx, "") {
		kinds = append(kinds, c.Kind)
		switch len(kinds) {
		case 1: // while this subscriber dawdles, the ring goes around many times
			for i := range 1000 {
				f.Publish(change(i))
			}
		case 2:
			if c.Kind != client.ChangeReset || c.Token != f.Token() {
				t.Fatalf("overtaken, it got %+v", c)
			}
			f.Publish(change(1000))
		case 3:
			if c.RID != "orn:x:1000" {
				t.Fatalf("after the reset it got %+v", c)
			}
			cancel()
		default:
			t.Fatalf("got %v", kinds)
		}
	}
	if len(kinds) != 3 {
		t.Errorf("got %v", kinds)
	}
}

func TestFeedClose(t *testing.T) {
	f := NewFeed("s1", 8, nil)
	ended := make(chan int)
	begun := make(chan struct{})
	go func() {
		n := 0
		for range f.Subscribe(context.Background(), "") {
			if n++; n == 1 {
				close(begun)
			}
		}
		ended <- n
	}()
	<-begun
	f.Close()
	f.Close()
	f.Publish(change(1))
	if n := <-ended; n != 1 {
		t.Errorf("the subscription yielded %d, want the first heartbeat alone", n)
	}
}

func TestFeedHeartbeat(t *testing.T) {
	f := NewFeed("s1", 8, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n := 0
	for c := range f.subscribe(ctx, "", time.Millisecond) {
		if c.Kind != client.ChangeHeartbeat || c.Token != f.Token() {
			t.Fatalf("got %+v", c)
		}
		if n++; n == 5 {
			return
		}
	}
	t.Fatal("the feed ended")
}

func TestWatchOverHTTP(t *testing.T) {
	f := serve(t, func(c *Config) { c.Limits.Heartbeat = 20 * time.Millisecond })
	stop := errors.New("stop")
	edge := client.Edge{RID: rid.NewEdge(self, other), Source: self, Target: other, Status: protocol.Approved}
	var token string
	var seen []client.ChangeKind // a run of heartbeats counts once
	err := f.Watch(t.Context(), "", func(c client.Change) error {
		token = c.Token
		if n := len(seen); n > 0 && seen[n-1] == c.Kind && c.Kind == client.ChangeHeartbeat {
			return nil
		}
		seen = append(seen, c.Kind)
		switch c.Kind {
		case client.ChangeHeartbeat:
			if len(seen) == 1 {
				f.feed.Publish(change(1))
				f.feed.Publish(change(2))
			} else { // nothing else happened in between
				f.feed.Publish(client.Change{Kind: client.ChangeEdge, Event: protocol.Update, RID: edge.RID, Edge: &edge})
			}
		case client.ChangeBundle:
			if want := change(len(seen) - 1); c.RID != want.RID || c.Event != protocol.New {
				t.Errorf("got %+v, want %+v", c, want)
			}
		case client.ChangeEdge:
			if c.Edge == nil || c.Edge.Target != other {
				t.Errorf("got %+v", c)
			}
			return stop
		}
		return nil
	})
	want := fmt.Sprint([]client.ChangeKind{client.ChangeHeartbeat, client.ChangeBundle, client.ChangeBundle, client.ChangeHeartbeat, client.ChangeEdge})
	if !errors.Is(err, stop) || fmt.Sprint(seen) != want {
		t.Fatalf("saw %v, %v; want %s", seen, err, want)
	}
	f.feed.Publish(change(9))
	err = f.Watch(t.Context(), token, func(c client.Change) error {
		if c.RID != "orn:x:9" {
			t.Errorf("resumed with %+v", c)
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestWatchEndsWithTheFeed(t *testing.T) {
	f := serve(t, nil)
	err := f.Watch(t.Context(), "", func(client.Change) error {
		f.feed.Close()
		return nil
	})
	if !errors.Is(err, client.ErrWatchEnded) {
		t.Errorf("got %v, want ErrWatchEnded", err)
	}
}

func TestWatchOutlivesTheServersTimeouts(t *testing.T) {
	feed := NewFeed("s1", 8, nil)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = HTTPServer(New(Config{Backend: newFake(), Feed: feed, Limits: Limits{Heartbeat: 20 * time.Millisecond, LineTimeout: 10 * time.Second}}), nil)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	srv.Start()
	defer srv.Close()
	defer feed.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+client.BasePath+"/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get(client.HeartbeatHeader); got != "0.02" {
		t.Errorf("%s: %q", client.HeartbeatHeader, got)
	}
	in := bufio.NewScanner(resp.Body)
	for begun := time.Now(); time.Since(begun) < 900*time.Millisecond; {
		if !in.Scan() {
			t.Fatalf("the watch ended after %s: %v", time.Since(begun), in.Err())
		}
	}
}
