// Package api is how cartctl speaks with samecart: HTTP connections, identity
// headers, the API's errors, and the rule for what is retried.
//
// # Decisions
//
//   - Connect binary over HTTP/1.1 keep-alive. Context: a replay sends a
//     hundred thousand small calls from the machine that also runs the
//     regions. Measured by BenchmarkCodec, client and handler together: binary
//     44 µs and 159 allocations a call, JSON 62 µs and 252. HTTP/2 was rejected for
//     unary calls: its framing and flow control are work on every call, and it gives
//     nothing where each client waits for its answer. Cost: the bytes are not
//     readable in a capture.
//   - Every call asks for uncompressed answers: they are small and mostly
//     local, so bytes cost less than packing them.
//   - A mutation is retried only with the idempotency key of its first
//     attempt, and only where the outcome is not known or the server said
//     that it took nothing. Everything else is an answer.
//   - A refused connection is not retried by default: nobody listens, and a
//     person waits. A replay turns that on, because a killed region comes back.
package api
