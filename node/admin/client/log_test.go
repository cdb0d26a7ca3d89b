package client_test

import (
	"io"
	"log"
)

// discard is for servers whose clients refuse them on purpose.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }
