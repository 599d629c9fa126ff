//go:build tools

// The execution client of the local chain, as an ordinary Go tool module: go.mod says which version, go.sum says which
// bytes. Nothing in this repository imports it; it is only built.
package tools

import _ "github.com/ethereum/go-ethereum/cmd/geth"
