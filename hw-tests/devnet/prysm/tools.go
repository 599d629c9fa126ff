//go:build tools

// The beacon node, its validator client and the genesis maker of the local chain, as an ordinary Go tool module.
package tools

import (
	_ "github.com/OffchainLabs/prysm/v7/cmd/beacon-chain"
	_ "github.com/OffchainLabs/prysm/v7/cmd/prysmctl"
	_ "github.com/OffchainLabs/prysm/v7/cmd/validator"
)
