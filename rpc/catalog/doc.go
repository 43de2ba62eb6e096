// Package catalog is the embedded catalogue: what cartd dev and tests use in
// place of a shop's own implementation of catalog.v1.CatalogService.
//
// It holds the products of the Online Retail data set (seller "retail", in
// GBP) and demo products SKU-1 to SKU-999, each sold by seller-1 to seller-9
// in USD. A SKU's default seller is "retail" or "seller-1".
//
// # Source of the data
//
// The file online_retail.csv.gz lists name and unit prices of each stock
// code of: Chen, D. (2015). Online Retail. UCI Machine Learning Repository,
// doi:10.24432/C5BW33, licensed under CC BY 4.0. It was aggregated from the
// order lines; names and prices are unchanged.
//
// # Decisions
//
// The current price is LastUnitPrice, what the newest order paid: the modal
// price would often be one that the shop no longer asked.
//
// A price finer than a penny is rounded up to the next penny, so that it
// never becomes free (one row, PADS at 0.001). A row without a name, with a
// SKU that the API refuses, or with a price that is no positive number is left out
// and counted in [Catalog.Skipped]: a bad row must not take the shop down.
// The embedded file has none.
//
// Demo names, prices and stock are a hash of SKU and seller: the same in
// every process and release, with no table to keep. Rejected: a seeded
// generator, whose stream changes when a product is added before others.
//
// Demo products weigh what their kind of thing does; retail products, of which
// the data does not say it, 400 g each.
//
// The log of changes names the products that changed, not what they were: a
// follower is sent what they are when it reads. So one that comes late gets
// each product once, and the log is bounded by its length alone. Cost: a price
// that was there between two others may never be seen, as in every look-up.
//
// Everything is built at start, 12,913 products in about 10 ms, rather than
// on demand: a look-up is then one map read, and live edits have a place.
package catalog
