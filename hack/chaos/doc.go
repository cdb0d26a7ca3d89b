// Chaos proves that nothing acknowledged is lost: it runs real koi-node processes,
// kills them with SIGKILL at random moments, fills their disks, sets their clocks,
// and holds what is left, and all that subscribers were offered, against a model of
// what was acknowledged (package history).
//
//	make chaos-short                          # the bounded share, part of make test
//	go run ./hack/chaos -rounds 5000          # as long as you like; -h lists all flags
//	go run ./hack/chaos -seed 42 -run delivery/signed
//
// A scenario that kills nodes goes by rounds. In each, senders broadcast, one body
// after the other, versions of RIDs that nobody else changes, and FORGETs of them;
// nodes are killed meanwhile, some once more while they start; a share of the stores
// they leave is opened and checked. Then they start again. A body whose sender got no
// answer is sent again as it was, or it is looked up whether it was accepted, as a
// whole or not at all. What the node holds of everything touched is compared at once.
// Now and then, and at the end, all comes to rest: every node holds what the first
// one does, and every subscriber was offered every change in its order.
//
//	broadcast   one node; what was answered 200 is in the cache, once in effect
//	processing  much of it has to be fetched from a slow source: the inbox is full
//	delivery    the node and two of our own that follow it are killed, one called and
//	            one polling; witnesses look on, and answer badly now and then
//	disk        a volume, or the store's bound, is filled: writes are answered 507,
//	            reads are not, and with room again all goes on without a restart
//	clocks      clocks are set, a little and far, while nodes work and start anew
//	soak        an even pace for -duration: memory, open files, goroutines (where the
//	            metrics tell) and store do not grow
//
// Scenarios that kill are run in both generations. The seed decides what is sent, who
// dies and after how long; what that hits is decided by the machine, so a seed repeats
// the choices of a run and not always its outcome.
//
// Package koinode runs the processes, package witness is the node that only looks on.
// Nothing outlives a run, Ctrl-C included, and nothing leaves loopback.
package main
