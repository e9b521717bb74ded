// Package api is the guest protocol: the ttrpc service that the agent serves
// (agent.proto), the handshake that comes before it, and the header of each
// stream. It is imported by the agent (in the guest) and by agent/client (in
// the monitor), and imports nothing of this module.
//
// A connection over the guest channel goes through these steps:
//
//  1. The agent writes one Hello as a line of JSON as soon as the virtio-serial
//     port is open; the host answers with one Welcome.
//  2. Where Welcome has VsockTerms the agent listens on a vsock port and says
//     which (VsockOffer). The host connects to it and each shows the other its
//     secret (VsockSecret, the host first). The host then says (CarrierChoice)
//     over what the session goes: that connection, or the port if anything of
//     this went wrong.
//  3. Both speak yamux from then on; the host is the yamux client and opens
//     every stream.
//  4. The first line of each stream is a StreamHeader; what follows is ttrpc
//     for KindRPC, raw bytes otherwise.
package api

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative agent.proto
