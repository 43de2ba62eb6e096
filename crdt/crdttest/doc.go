// Package crdttest makes random histories of one cart in several regions and
// holds the law checks that every type of package crdt runs. Packages above
// crdt use it to test their own handling of rows and carts.
//
// # The histories
//
// A [History] is a few regions, each with its replica of the cart, and a
// stream of rows per region and incarnation. A step is a shopper's edit in
// one region, the delivery of the next row of one stream to one other
// region, a join with another region's whole cart, or a new incarnation of
// a region. Rows of one stream arrive in order; nothing else is ordered, so
// a region may hear of an edit inside another region's row long before the
// edit's own row comes.
//
// # Decisions
//
// A step is returned as an [Event], so that a model outside this package can
// follow the history without knowing how crdt works. Rejected: a model in
// here, which would grow into a second implementation that tests trust.
//
// Times come from a small range and repeat, quantities are small, keys are
// few: concurrent writes of one field and ties are what the tests are for.
// Cost: histories look like no shopper's; benchmarks use [Realistic].
package crdttest
