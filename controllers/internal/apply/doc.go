// Package apply brings one object to the state a builder gave, by server-side
// apply, and only when something differs.
//
// What differs is read off the object itself: its managed fields say what this
// field manager applied last, and a field that somebody else changed is no
// longer among them. So an unchanged world costs no write, also after a
// restart of the operator, and fields that others own are left to them.
//
// An object that stands under the name of one of ours and is not ours is never
// touched: ErrConflict names it.
package apply
