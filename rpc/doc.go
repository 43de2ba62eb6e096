// Package rpc is what the outside sees of a region: the shopper's cart over
// Connect, gRPC, gRPC-Web and REST, with authentication, limits and errors,
// and the services that regions and operators use among themselves.
//
// # The cart's API
//
// [NewHandler] joins a [Region], a catalogue and an [Authenticator] to one
// http.Handler; [NewServer] gives it a server. A call passes, in this order:
//
//	find          which call is meant; a table of REST routes, the schema's procedures, mounts
//	authenticate  who calls, and whether the call is for them; denied unless a line says otherwise
//	read          the body, bounded in size and time
//	limit         one of a bounded number of slots, a deadline
//	translate     REST JSON or a message to edits (decode.go, connect.go)
//	service       the one implementation (cart.go, render.go, watch.go, explain.go)
//	translate     the answer, or the error by the one table in errors.go
//
// REST and Connect are two translations of the same methods: neither has a
// rule of its own. What both understand of the headers is in headers.go.
//
// # Decisions
//
// REST is written by hand, not transcoded from the schema: its contract has
// decimal money, flat bodies and path variables, which annotations do not
// give, and transcoding cost more than half of the throughput in a
// measurement of an empty handler. Cost: encode.go and decode.go; the golden tests
// hold them together with the contract.
//
// REST bodies are read strictly: field names in their exact case, each once,
// known ones only, UTF-8. encoding/json alone takes the last of two
// quantities and "QUANTITY". Connect's JSON is as strict about unknown
// fields; binary messages drop them, as protobuf does, for newer clients.
//
// A fault of decoding crosses the Connect library inside the message, as an
// unknown field, and the interceptor turns it into our error (codec.go).
// The library would answer by itself, without our code as a detail.
// Rejected: decoding twice, a table of messages beside the calls.
//
// Quantities: whole numbers over the limit are 422 QUANTITY_TOO_LARGE; what
// is no 32-bit whole number, and 0 in an add, is 400 INVALID_QUANTITY: the
// same line in REST and in Connect, whose type is uint32.
//
// Prices are catalogue prices when the edit is made. The fingerprint of an
// idempotency key covers what the shopper sent, so a retry after a price
// change is still the same request. A price that a service states replaces the
// line's offer; a catalogue price does not, since the lower one counts anyway.
//
// Set and remove never ask the catalogue which line is meant: the cart knows,
// and the region resolves it where the edit is applied. They work while the
// catalogue is down.
//
// What the catalogue sends by itself (catalog.v1 Changes) wins over answers to
// what was asked before it. It refreshes what is remembered and nothing else: a
// catalogue of millions of products may change as it likes. A catalogue that
// cannot send changes is asked once a second, as before, and watchers see its
// prices with the next change of their cart.
//
// Shipping is estimated as the catalogue is asked: in bulk, with a timeout,
// behind a breaker, with answers that stand in for ten minutes. But a cart
// without an estimate is a cart, an estimate without a service is 503. Lines
// carry no delivery_estimate: a cart has no destination.
//
// The catalogue is asked in bulk with a timeout, behind a breaker, and its
// answers stand in for ten minutes when it is down; a warning says so. An add
// without any known price is refused: a guess would be a promise.
// price_changed is true for a fall as well as for a rise.
//
// A guest's session is a random id and a token that the servers sign with a key of
// their own, which makes guests and nothing else: whoever steals it can read carts
// of guests. A merge needs the user's credentials and, as guest_token in the body,
// the guest's: a session id alone may have been seen by others. It is no header, since
// proxies log and forward those. Where identity is on trust it may be left out. The
// answer has a new session for the device, since what is put into the old one goes
// to the user's cart from then on, also after a logout; the old one is not refused,
// as a tab that is still open has it. Rejected: sessions kept in a table, which every
// region would have to look into.
//
// A causal token is the cart's context in the open, not signed: it names
// the caller's own cart and can do no more than make the caller wait. One
// that a cart would need over 16 KiB for is not given.
//
// The ETag is the digest of the cart, not of the page: prices and stock
// change without the cart. So it serves If-Match, and GET answers no 304.
// An If-Match that no cart can match is 409, as one that does not match now.
//
// A deadline that passes before the proposal is 503: nothing was changed. Once
// the region was asked to edit it is 504, and only an idempotency key makes
// a retry safe. Errors that say "not taken" win over the deadline.
//
// A body is read before the call takes a slot, so slow senders cannot use
// the slots up; 64 KiB and the request timeout bound what they can hold.
// Streams have slots of their own.
//
// Guest carts have the prefix "guest:", users' "cart:": whatever a guest
// chooses as session id, it names no user's cart. In development a request
// with both headers is the user's.
//
// A service has no cart. A price scope is carried by credentials of the
// shopper whose cart is meant; acting for others by a header was rejected,
// as one leaked service token would then open every cart.
//
// GET /shared/{token} is public: its token is what it needs. GET /regions,
// health and reflection are public: clients choose a region
// before they log in, and the schema is no secret.
//
// Resume tokens of a watch carry the digest and the context: a region that
// lacks what the watcher has seen sends its cart marked stale, never as new.
// They name the page too: who missed a price is sent it.
//
// Watchers of one cart share a feed, which takes the newest state and queues
// nothing (feed.go). Rejected: a bounded queue for each watcher, which shows a
// slow one what is long over, and a watcher with nothing to read the memory of
// all the others. The kernel's buffer is such a queue: it is bounded for streams
// over HTTP/1.1. Streams are not compressed: each watcher's copy would be anew.
// An index finds watched carts by product; its entries are the lines of watched
// carts, and a change of price makes their pages at most ten times a second.
//
// Each event is the whole cart. Deltas would need a client that joins them; a cart
// of 200 lines is about 70 KB, sent on a change of that one cart.
//
// Pages are remembered in protobuf's encoding, under a byte bound: a page
// stands while the cart's digest and the products it was made from are the
// same. It is sent as an unknown field of an empty message, which encoding
// copies. Cost: JSON, and REST with it, is made anew each time. Rejected: a time
// to live, which shows old prices; remembering messages, which would be encoded
// for each call.
//
// A promotion code is refused when it can never count: when there is none of
// that name, it has ended, or it is for other users. One that does not count yet
// is taken and shown with the reason: a shopper who is ten dollars short, or not
// signed in, should not have to type it again. While nobody can say what
// a code does, one that is new to the cart is 503, as else anything could be put
// there; those in it are shown as not known now, and count again by themselves.
// A retry is judged anew by the rules of its own time, as one of an add is.
//
// A page with codes is not remembered: a code may begin or end with any second.
// A watcher sees that with the next change of its cart.
//
// Codes beyond the number that counts, which regions may let in together, are
// shown as such: the ones given first count. Of a code with limited uses the page
// says what Config.PromotionUses knows; it takes no use.
//
// A link that shares a cart is a cart of its own, so whatever keeps carts keeps
// links. It is good while its own cart and the owner's both name it: a region
// where the owner's cart has arrived and the link's has not can revoke it, and
// erasing the owner ends all links with one write. Cost: two reads for a look at a
// snapshot. Rejected: an index of tokens, which is one more thing to replicate; a
// signed token without state, which nobody could revoke.
//
// A link's token has, after its 256 random bits, what the link's cart had seen
// when it was made. A region that has not heard of the link then waits for just
// that, and asks the region that made it, as for a causal token; what it answers
// after that, 404 included, is the truth as far as it can be had. Where the maker
// cannot be reached, the answer is 404 all the same: else a made-up token could be
// told from a real one. Anybody can make up what costs a second of waiting, so
// the calls that ask are bounded, and beyond them the region answers with what it has.
//
// The same Idempotency-Key gives the same token, although no token is kept: it is
// a MAC of the key and the cart under the deployment's ShareKey. A key is known
// for a day, as everywhere; who sends it again after the link was revoked, and
// after that day, makes the same link once more.
//
// A shared cart's page has neither token nor ETag: both are made of the owner's
// cart. It is rendered from lines that have what shows and nothing else, so what
// is added to a cart's page is not shared before somebody decides so.
//
// Lines are shown in the order in which they were added. Money in a currency
// whose digits ISO 4217 does not set apart has two decimals.
package rpc
