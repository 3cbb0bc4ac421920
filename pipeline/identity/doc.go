// Package identity finds whose a record is: the stage between the two logs of the pipeline.
//
// Each partition of the first log owns the identifiers that hash to it. Its state says
// which profile an identifier is bound to and where profiles went that were merged or deleted. So two requests
// that name a new address at the same moment make one profile, whoever took them, and a replay makes the same one again.
// DESIGN.md tells the protocol and why it is safe.
package identity
