package edge

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	source rid.RID = "orn:koi-net.node:source+1"
	target rid.RID = "orn:koi-net.node:target+2"
	third  rid.RID = "orn:koi-net.node:third+3"

	note  rid.Type = "orn:test.note"
	doc   rid.Type = "orn:test.doc"
	other rid.Type = "orn:test.other"
)

func profile(status protocol.EdgeStatus, kind protocol.EdgeKind, types ...rid.Type) protocol.EdgeProfile {
	return protocol.EdgeProfile{Source: source, Target: target, EdgeType: kind, Status: status, RIDTypes: types}
}

func proposed(types ...rid.Type) protocol.EdgeProfile {
	return profile(protocol.Proposed, protocol.Webhook, types...)
}

func approved(types ...rid.Type) protocol.EdgeProfile {
	return profile(protocol.Approved, protocol.Webhook, types...)
}

func with(p protocol.EdgeProfile, change func(*protocol.EdgeProfile)) protocol.EdgeProfile {
	change(&p)
	return p
}

func TestNegotiate(t *testing.T) {
	base := Negotiation{Self: source, Provides: []rid.Type{note, doc}, Policy: Automatic, Known: true, TargetKind: protocol.Full, Received: proposed(note)}
	yes := func(types ...rid.Type) *Decision {
		return &Decision{Approved: true, EdgeType: protocol.Webhook, RIDTypes: types}
	}
	for name, c := range map[string]struct {
		change func(*Negotiation)
		want   Outcome
	}{
		"automatic":                  {func(in *Negotiation) {}, Outcome{Approve, ReasonByPolicy, approved(note)}},
		"manual":                     {func(in *Negotiation) { in.Policy = Manual }, Outcome{Wait, ReasonAwaitingApproval, proposed(note)}},
		"no policy":                  {func(in *Negotiation) { in.Policy = "" }, Outcome{Wait, ReasonAwaitingApproval, proposed(note)}},
		"nodes and edges":            {func(in *Negotiation) { in.Received = proposed(rid.NodeType, rid.EdgeType); in.Provides = nil }, Outcome{Approve, ReasonByPolicy, approved(rid.NodeType, rid.EdgeType)}},
		"poll for full":              {func(in *Negotiation) { in.Received.EdgeType = protocol.Poll }, Outcome{Approve, ReasonByPolicy, profile(protocol.Approved, protocol.Poll, note)}},
		"poll for partial":           {func(in *Negotiation) { in.TargetKind = protocol.Partial; in.Received.EdgeType = protocol.Poll }, Outcome{Approve, ReasonByPolicy, profile(protocol.Approved, protocol.Poll, note)}},
		"repeated types":             {func(in *Negotiation) { in.Received = proposed(doc, note, doc) }, Outcome{Approve, ReasonByPolicy, approved(doc, note)}},
		"webhook for partial":        {func(in *Negotiation) { in.TargetKind = protocol.Partial }, Outcome{Action: Refuse, Reason: ReasonWebhookToPartial}},
		"not provided":               {func(in *Negotiation) { in.Received = proposed(note, other) }, Outcome{Action: Refuse, Reason: ReasonNotProvided}},
		"not provided, manual":       {func(in *Negotiation) { in.Received = proposed(other); in.Policy = Manual }, Outcome{Action: Refuse, Reason: ReasonNotProvided}},
		"all types":                  {func(in *Negotiation) { in.Received = proposed(AllTypes) }, Outcome{Action: Refuse, Reason: ReasonNotProvided}},
		"no types":                   {func(in *Negotiation) { in.Received = proposed() }, Outcome{Action: Refuse, Reason: ReasonNoTypes}},
		"another's edge":             {func(in *Negotiation) { in.Self = third }, Outcome{Action: Drop, Reason: ReasonNotOurs}},
		"to itself":                  {func(in *Negotiation) { in.Received.Target = source }, Outcome{Action: Drop, Reason: ReasonInvalid}},
		"no edge type":               {func(in *Negotiation) { in.Received.EdgeType = "" }, Outcome{Action: Drop, Reason: ReasonInvalid}},
		"invalid type":               {func(in *Negotiation) { in.Received = proposed("orn") }, Outcome{Action: Drop, Reason: ReasonInvalid}},
		"unknown target":             {func(in *Negotiation) { in.Known = false }, Outcome{Action: Drop, Reason: ReasonUnknownTarget}},
		"unknown target, approved":   {func(in *Negotiation) { in.Known = false; in.Decision = yes(note) }, Outcome{Action: Drop, Reason: ReasonUnknownTarget}},
		"self-approval":              {func(in *Negotiation) { in.Received = approved(note) }, Outcome{Action: Drop, Reason: ReasonSelfApproval}},
		"self-approval, decided":     {func(in *Negotiation) { in.Received = approved(note); in.Decision = yes(note) }, Outcome{Action: Drop, Reason: ReasonSelfApproval}},
		"self-approval of proposal":  {func(in *Negotiation) { in.Received = approved(note); p := proposed(note); in.Current = &p }, Outcome{Action: Drop, Reason: ReasonSelfApproval}},
		"self-approval of more":      {func(in *Negotiation) { in.Received = approved(note, doc); p := approved(note); in.Current = &p }, Outcome{Action: Drop, Reason: ReasonSelfApproval}},
		"approval echoed":            {func(in *Negotiation) { in.Received = approved(note, doc); p := approved(doc, note); in.Current = &p }, Outcome{Action: Drop, Reason: ReasonEcho}},
		"other status":               {func(in *Negotiation) { in.Received.Status = "REJECTED" }, Outcome{Action: Drop, Reason: ReasonSelfApproval}},
		"same terms again":           {func(in *Negotiation) { in.Received = proposed(note, doc); p := approved(doc, note); in.Current = &p }, Outcome{Reaffirm, ReasonSameTerms, approved(doc, note)}},
		"same terms again, manual":   {func(in *Negotiation) { in.Policy = Manual; p := approved(note); in.Current = &p }, Outcome{Reaffirm, ReasonSameTerms, approved(note)}},
		"same terms, narrow consent": {func(in *Negotiation) { in.Decision = yes(doc); p := approved(note); in.Current = &p }, Outcome{Reaffirm, ReasonSameTerms, approved(note)}},
		"same terms, now refused":    {func(in *Negotiation) { in.Decision = &Decision{}; p := approved(note); in.Current = &p }, Outcome{Action: Refuse, Reason: ReasonRefusedByDecision}},
		"same terms, gone":           {func(in *Negotiation) { in.Provides = nil; p := approved(note); in.Current = &p }, Outcome{Action: Refuse, Reason: ReasonNotProvided}},
		"other terms":                {func(in *Negotiation) { p := approved(doc); in.Current = &p }, Outcome{Approve, ReasonByPolicy, approved(note)}},
		"other terms, manual":        {func(in *Negotiation) { in.Policy = Manual; p := approved(doc); in.Current = &p }, Outcome{Wait, ReasonAwaitingApproval, proposed(note)}},
		"narrower terms, manual":     {func(in *Negotiation) { in.Policy = Manual; p := approved(doc, note); in.Current = &p }, Outcome{Wait, ReasonAwaitingApproval, proposed(note)}},
		"other edge type, manual": {func(in *Negotiation) {
			in.Policy = Manual
			p := profile(protocol.Approved, protocol.Poll, note)
			in.Current = &p
		}, Outcome{Wait, ReasonAwaitingApproval, proposed(note)}},
		"proposed again":             {func(in *Negotiation) { in.Policy = Manual; p := proposed(note); in.Current = &p }, Outcome{Wait, ReasonAwaitingApproval, proposed(note)}},
		"proposed, policy changed":   {func(in *Negotiation) { p := proposed(note); in.Current = &p }, Outcome{Approve, ReasonByPolicy, approved(note)}},
		"decided":                    {func(in *Negotiation) { in.Policy = Manual; in.Decision = yes(note) }, Outcome{Approve, ReasonByDecision, approved(note)}},
		"decided for more":           {func(in *Negotiation) { in.Policy = Manual; in.Decision = yes(doc, note) }, Outcome{Approve, ReasonByDecision, approved(note)}},
		"decided for less":           {func(in *Negotiation) { in.Policy = Manual; in.Decision = yes(doc) }, Outcome{Wait, ReasonNotCovered, proposed(note)}},
		"decided for less, auto":     {func(in *Negotiation) { in.Decision = yes(doc) }, Outcome{Wait, ReasonNotCovered, proposed(note)}},
		"decided for part, auto":     {func(in *Negotiation) { in.Received = proposed(note, doc); in.Decision = yes(doc) }, Outcome{Wait, ReasonNotCovered, proposed(note, doc)}},
		"decided for other type":     {func(in *Negotiation) { in.Received.EdgeType = protocol.Poll; in.Decision = yes(note) }, Outcome{Wait, ReasonNotCovered, profile(protocol.Proposed, protocol.Poll, note)}},
		"decided, not provided":      {func(in *Negotiation) { in.Received = proposed(other); in.Decision = yes(other) }, Outcome{Action: Refuse, Reason: ReasonNotProvided}},
		"decided, partial":           {func(in *Negotiation) { in.TargetKind = protocol.Partial; in.Decision = yes(note) }, Outcome{Action: Refuse, Reason: ReasonWebhookToPartial}},
		"refused":                    {func(in *Negotiation) { in.Decision = &Decision{} }, Outcome{Action: Refuse, Reason: ReasonRefusedByDecision}},
		"refused whatever the terms": {func(in *Negotiation) { in.Decision = &Decision{EdgeType: protocol.Poll, RIDTypes: []rid.Type{doc}} }, Outcome{Action: Refuse, Reason: ReasonRefusedByDecision}},
	} {
		t.Run(name, func(t *testing.T) {
			in := base
			c.change(&in)
			got := Negotiate(in)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if again := Negotiate(in); !reflect.DeepEqual(again, got) {
				t.Errorf("asked again: %+v", again)
			}
		})
	}
}

// Every combination of a small world, held against the promises of the package.
func TestNegotiateNeverWidens(t *testing.T) {
	sets := [][]rid.Type{nil, {note}, {doc}, {note, doc}, {other}, {note, other}, {rid.NodeType}}
	var profiles []*protocol.EdgeProfile
	for _, s := range []protocol.EdgeStatus{protocol.Proposed, protocol.Approved} {
		for _, k := range []protocol.EdgeKind{protocol.Webhook, protocol.Poll} {
			for _, types := range sets {
				p := profile(s, k, types...)
				profiles = append(profiles, &p)
			}
		}
	}
	decisions := []*Decision{nil, {}}
	for _, k := range []protocol.EdgeKind{protocol.Webhook, protocol.Poll} {
		for _, types := range sets {
			decisions = append(decisions, &Decision{Approved: true, EdgeType: k, RIDTypes: types})
		}
	}
	provides := []rid.Type{note, doc}
	n := 0
	for _, policy := range []Policy{Automatic, Manual} {
		for _, kind := range []protocol.NodeKind{protocol.Full, protocol.Partial} {
			for _, known := range []bool{true, false} {
				for _, decision := range decisions {
					for _, current := range append([]*protocol.EdgeProfile{nil}, profiles...) {
						for _, received := range profiles {
							in := Negotiation{Self: source, Provides: provides, Policy: policy, Decision: decision, Known: known, TargetKind: kind, Current: current, Received: *received}
							out := Negotiate(in)
							n++
							if problem := promise(in, out); problem != "" {
								t.Fatalf("%s\nin  %+v\nout %+v", problem, in, out)
							}
						}
					}
				}
			}
		}
	}
	if n < 10_000 {
		t.Errorf("only %d combinations", n)
	}
}

func promise(in Negotiation, out Outcome) string {
	p := out.Profile
	switch out.Action {
	case Approve:
		switch {
		case in.Received.Status != protocol.Proposed:
			return "approves what was not proposed"
		case !SameTerms(p, in.Received):
			return "approves other terms than were proposed"
		case p.Status != protocol.Approved:
			return "approves as " + string(p.Status)
		case !TypesSubset(p.RIDTypes, append([]rid.Type{rid.NodeType, rid.EdgeType}, in.Provides...)):
			return "approves what is not provided"
		case p.EdgeType == protocol.Webhook && in.TargetKind == protocol.Partial:
			return "approves a webhook to a partial node"
		case in.Decision == nil && in.Policy != Automatic:
			return "approves on nobody's authority"
		case in.Decision != nil && !in.Decision.Covers(p):
			return "approves beyond the decision"
		case !in.Known:
			return "approves an unknown node"
		}
	case Reaffirm:
		if in.Current == nil || !reflect.DeepEqual(p, *in.Current) || p.Status != protocol.Approved {
			return "reaffirms what it does not hold"
		}
	case Wait:
		if p.Status != protocol.Proposed || !SameTerms(p, in.Received) {
			return "waits for something else"
		}
		if in.Current != nil && in.Current.Status == protocol.Approved && SameTerms(p, *in.Current) {
			return "steps back from an approval"
		}
	case Refuse, Drop:
		if !reflect.DeepEqual(p, protocol.EdgeProfile{}) {
			return "holds something"
		}
		if out.Reason == "" {
			return "gives no reason"
		}
	default:
		return "unknown action"
	}
	return ""
}

func TestReconsider(t *testing.T) {
	held := func(p protocol.EdgeProfile) Negotiation {
		return Negotiation{Self: source, Provides: []rid.Type{note, doc}, Policy: Manual, Known: true, TargetKind: protocol.Full, Current: &p}
	}
	decided := func(in Negotiation, d Decision) Negotiation { in.Decision = &d; return in }
	yes := Decision{Approved: true, EdgeType: protocol.Webhook, RIDTypes: []rid.Type{note}}
	automatic := held(proposed(note))
	automatic.Policy = Automatic
	gone := held(approved(other))
	partial := held(approved(note))
	partial.TargetKind = protocol.Partial
	stranger := held(proposed(note))
	stranger.Known, stranger.Policy = false, Automatic
	foreign := decided(held(approved(note)), Decision{})
	foreign.Self = third
	for name, c := range map[string]struct {
		in   Negotiation
		want Outcome
	}{
		"no edge":                 {Negotiation{Self: source, Known: true, Decision: &yes}, Outcome{Action: Keep}},
		"waiting":                 {held(proposed(note)), Outcome{Keep, ReasonAwaitingApproval, proposed(note)}},
		"approved by a person":    {decided(held(proposed(note)), yes), Outcome{Approve, ReasonByDecision, approved(note)}},
		"approved for less":       {decided(held(proposed(note, doc)), yes), Outcome{Keep, ReasonNotCovered, proposed(note, doc)}},
		"refused by a person":     {decided(held(proposed(note)), Decision{}), Outcome{Action: Refuse, Reason: ReasonRefusedByDecision}},
		"approval taken back":     {decided(held(approved(note)), Decision{}), Outcome{Action: Refuse, Reason: ReasonRefusedByDecision}},
		"approval narrowed":       {decided(held(approved(note, doc)), yes), Outcome{Action: Refuse, Reason: ReasonNotCovered}},
		"approval confirmed":      {decided(held(approved(note)), yes), Outcome{Keep, ReasonSameTerms, approved(note)}},
		"decision removed":        {held(approved(note)), Outcome{Keep, ReasonSameTerms, approved(note)}},
		"policy became automatic": {automatic, Outcome{Approve, ReasonByPolicy, approved(note)}},
		"type provided no more":   {gone, Outcome{Action: Refuse, Reason: ReasonNotProvided}},
		"target became partial":   {partial, Outcome{Action: Refuse, Reason: ReasonWebhookToPartial}},
		"target unknown":          {stranger, Outcome{Action: Keep}},
		"another's edge":          {foreign, Outcome{Action: Keep}},
	} {
		if got := Reconsider(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got  %+v\nwant %+v", name, got, c.want)
		}
	}
}

func TestSubscribe(t *testing.T) {
	base := Subscription{Self: target, SelfKind: protocol.Full, Source: source, SourceProfile: protocol.NodeProfile{NodeType: protocol.Full, Provides: protocol.Provides{
		Event: []rid.Type{note, doc, rid.NodeType}, State: []rid.Type{other}}}, Want: []rid.Type{rid.NodeType, note, other}}
	ptr := func(p protocol.EdgeProfile) *protocol.EdgeProfile { return &p }
	for name, c := range map[string]struct {
		change func(*Subscription)
		want   *protocol.EdgeProfile
		reason string
	}{
		"wanted":          {func(in *Subscription) {}, ptr(proposed(note, rid.NodeType)), ReasonWanted},
		"partial":         {func(in *Subscription) { in.SelfKind = protocol.Partial }, ptr(profile(protocol.Proposed, protocol.Poll, note, rid.NodeType)), ReasonWanted},
		"everything":      {func(in *Subscription) { in.Want = []rid.Type{AllTypes} }, ptr(proposed(note, doc, rid.NodeType)), ReasonWanted},
		"nothing":         {func(in *Subscription) { in.Want = nil }, nil, ReasonNothingOfInterest},
		"state alone":     {func(in *Subscription) { in.Want = []rid.Type{other} }, nil, ReasonNothingOfInterest},
		"oneself":         {func(in *Subscription) { in.Source = target }, nil, ReasonNotOurs},
		"there":           {func(in *Subscription) { in.Current = ptr(proposed(rid.NodeType, note)) }, nil, ReasonSameTerms},
		"there, approved": {func(in *Subscription) { in.Current = ptr(approved(rid.NodeType, note)) }, nil, ReasonSameTerms},
		"there, by poll": {func(in *Subscription) {
			in.Current = ptr(profile(protocol.Approved, protocol.Poll, note, rid.NodeType))
		}, nil, ReasonSameTerms},
		"there, and more":   {func(in *Subscription) { in.Current = ptr(approved(rid.NodeType, note, doc)) }, nil, ReasonSameTerms},
		"less is there":     {func(in *Subscription) { in.Current = ptr(approved(note)) }, ptr(proposed(note, rid.NodeType)), ReasonWanted},
		"less is pinned":    {func(in *Subscription) { in.Current = ptr(approved(note)); in.Pinned = true }, nil, ReasonPinned},
		"coordinator":       {func(in *Subscription) { in.Terms = []rid.Type{rid.NodeType, rid.EdgeType, rid.NodeType} }, ptr(proposed(rid.NodeType, rid.EdgeType)), ReasonWanted},
		"terms there":       {func(in *Subscription) { in.Terms = []rid.Type{doc, note}; in.Current = ptr(proposed(note, doc)) }, nil, ReasonSameTerms},
		"terms, more there": {func(in *Subscription) { in.Terms = []rid.Type{doc}; in.Current = ptr(approved(note, doc)) }, ptr(proposed(doc)), ReasonWanted},
		"terms, pinned":     {func(in *Subscription) { in.Terms = []rid.Type{doc}; in.Current = ptr(approved(note)); in.Pinned = true }, ptr(proposed(doc)), ReasonWanted},
		"terms by poll": {func(in *Subscription) {
			in.Terms = []rid.Type{doc}
			in.EdgeType = protocol.Poll
			in.Current = ptr(approved(doc))
		}, ptr(profile(protocol.Proposed, protocol.Poll, doc)), ReasonWanted},
		"empty terms":         {func(in *Subscription) { in.Terms = []rid.Type{} }, nil, ReasonNoTypes},
		"webhook for partial": {func(in *Subscription) { in.SelfKind = protocol.Partial; in.EdgeType = protocol.Webhook }, nil, ReasonWebhookToPartial},
	} {
		in := base
		c.change(&in)
		got, reason := Subscribe(in)
		if !reflect.DeepEqual(got, c.want) || reason != c.reason {
			t.Errorf("%s: %+v, %s; want %+v, %s", name, got, reason, c.want, c.reason)
		}
		if got != nil {
			if err := got.Validate(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestReceive(t *testing.T) {
	ptr := func(p protocol.EdgeProfile) *protocol.EdgeProfile { return &p }
	elsewhere := func(p *protocol.EdgeProfile) { p.Target = third }
	for name, c := range map[string]struct {
		in   Reception
		want Outcome
	}{
		"approved":               {Reception{Received: ptr(approved(note, doc)), Current: ptr(proposed(doc, note)), FromSource: true}, Outcome{Accept, ReasonSameTerms, approved(note, doc)}},
		"approved again":         {Reception{Received: ptr(approved(note)), Current: ptr(approved(note)), FromSource: true}, Outcome{Keep, ReasonSameTerms, approved(note)}},
		"approved by another":    {Reception{Received: ptr(approved(note)), Current: ptr(proposed(note))}, Outcome{Action: Drop, Reason: ReasonNotFromSource}},
		"unasked":                {Reception{Received: ptr(approved(note)), FromSource: true}, Outcome{Action: Drop, Reason: ReasonUnasked}},
		"more than asked":        {Reception{Received: ptr(approved(note, doc)), Current: ptr(proposed(note)), FromSource: true}, Outcome{Repropose, ReasonOtherTerms, proposed(note)}},
		"less than asked":        {Reception{Received: ptr(approved(note)), Current: ptr(proposed(note, doc)), FromSource: true}, Outcome{Repropose, ReasonOtherTerms, proposed(note, doc)}},
		"other type":             {Reception{Received: ptr(profile(protocol.Approved, protocol.Poll, note)), Current: ptr(approved(note)), FromSource: true}, Outcome{Repropose, ReasonOtherTerms, proposed(note)}},
		"own proposal":           {Reception{Received: ptr(proposed(note)), Current: ptr(proposed(note)), FromSource: true}, Outcome{Action: Drop, Reason: ReasonEcho}},
		"another's edge":         {Reception{Received: ptr(with(approved(note), elsewhere)), FromSource: true}, Outcome{Action: Drop, Reason: ReasonNotOurs}},
		"invalid":                {Reception{Received: ptr(approved()), FromSource: true}, Outcome{Action: Drop, Reason: ReasonInvalid}},
		"refused":                {Reception{Current: ptr(proposed(note)), FromSource: true}, Outcome{Action: Refused, Reason: ReasonForgotten}},
		"withdrawn":              {Reception{Current: ptr(approved(note)), FromSource: true}, Outcome{Action: Withdrawn, Reason: ReasonForgotten}},
		"forgotten by another":   {Reception{Current: ptr(approved(note))}, Outcome{Action: Drop, Reason: ReasonNotFromSource}},
		"forgotten, not held":    {Reception{FromSource: true}, Outcome{Action: Keep}},
		"forgotten, not ours":    {Reception{Current: ptr(with(approved(note), elsewhere)), FromSource: true}, Outcome{Action: Drop, Reason: ReasonNotOurs}},
		"held proposal is asked": {Reception{Received: ptr(approved(doc)), Current: ptr(approved(note)), FromSource: true}, Outcome{Repropose, ReasonOtherTerms, proposed(note)}},
	} {
		c.in.Self = target
		if got := Receive(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got  %+v\nwant %+v", name, got, c.want)
		}
	}
}

func TestTypeSets(t *testing.T) {
	many := make([]rid.Type, 500)
	for i := range many {
		many[i] = rid.Type(fmt.Sprintf("orn:test.t%d", i))
	}
	reversed := make([]rid.Type, len(many))
	for i, typ := range many {
		reversed[len(many)-1-i] = typ
	}
	for name, c := range map[string]struct {
		a, b         []rid.Type
		subset, same bool
	}{
		"empty":      {nil, []rid.Type{}, true, true},
		"none of":    {nil, []rid.Type{note}, true, false},
		"of none":    {[]rid.Type{note}, nil, false, false},
		"order":      {[]rid.Type{note, doc}, []rid.Type{doc, note}, true, true},
		"repetition": {[]rid.Type{note, note}, []rid.Type{note}, true, true},
		"part":       {[]rid.Type{note}, []rid.Type{doc, note}, true, false},
		"overlap":    {[]rid.Type{note, other}, []rid.Type{doc, note}, false, false},
		"many":       {many, reversed, true, true},
		"one more":   {append([]rid.Type{note}, many...), many, false, false},
	} {
		if TypesSubset(c.a, c.b) != c.subset || SameTypes(c.a, c.b) != c.same {
			t.Errorf("%s: subset %v, same %v", name, TypesSubset(c.a, c.b), SameTypes(c.a, c.b))
		}
	}
	if got := Offered(protocol.Provides{Event: []rid.Type{note, doc}, State: []rid.Type{doc, other}}); !reflect.DeepEqual(got, []rid.Type{note, doc, other}) {
		t.Errorf("Offered = %v", got)
	}
}
