// Package replay sends real orders through all regions while links are cut
// and nodes are killed, and then proves that nothing acknowledged was lost.
//
// # Data
//
// orders.csv.gz is the beginning of the Online Retail data set, unedited:
// 107,348 order lines of a UK gift wholesaler, 2010-12-01 to 2011-03-02, cut
// where an invoice ends. It was made from the whole set by
//
//	gzip -dc online_retail.csv.gz | head -n 107349 | gzip -9 -n > orders.csv.gz
//
// Attribution: Chen, D. (2015). Online Retail. UCI Machine Learning Repository,
// doi:10.24432/C5BW33, published under CC BY 4.0; with the donor's permission also
// under CC0 by the R package onlineretail. The whole set, or any file with
// the same columns, is replayed with --data.
//
// # Decisions
//
//   - Each invoice is one cart, of a shopper named after the invoice and the
//     run: a second replay meets no cart of the first, and nothing has to be
//     cleared between them. Cost: carts stay behind.
//   - The second device stands in the region after the nearest one, and the
//     invoices take turns in which of the others that is. Nine of ten
//     orders are British: with one fixed neighbour nearly all carts would
//     live on one link, and a cut of another would test nothing.
//   - A device never leaves its region. Where the region takes no writes the
//     device tries again with the same idempotency key; to move would hide what
//     the region's outage costs.
//   - Faults begin and end at edits, not at times: --cut A,B:33%-66% is in
//     force before edit ⌈33 %⌉ is sent and until edit ⌈66 %⌉ is about to be
//     sent, on a fast machine and on a slow one. The file is read twice for it:
//     first to count, which also finds a malformed row before anything is sent.
//     Edits sent before a fault began may still be on their way when it begins.
//   - Kills that take a region its majority stop its devices, soon all clients
//     wait there, and no edit is left to reach the end of the window: after
//     --edit-timeout the run ends as not acknowledged. To end such a window by
//     time was rejected, as it would make runs differ; for whole regions there
//     is the region command, beside a replay.
//   - Regions whose carts are edited on both sides of a cut keep, of
//     concurrent quantities, the larger; so a line must show at least the largest
//     and at most the sum of its acknowledged quantities. An edit of unknown
//     outcome raises the upper bound alone, and fails the run by itself.
//   - The ledger of what was acknowledged is kept in memory, about 100 bytes
//     for each line: 40 MB for the whole set. A file would allow larger ones and
//     slow the rest.
//   - With Config.Prices each cart's totals are compared with a computation
//     from the files alone, in whole pennies, that shares no code with what
//     serves carts. The edits of a line then come from one device: of what two
//     regions add to it before they hear of each other the larger counts, and
//     which of them had heard no file tells. Rejected: taking the quantities from
//     the carts, which would prove a product of two numbers and no total.
//   - Prices are rounded to pennies, a positive one to at least one: carts hold
//     minor units, and four rows of the set cost a tenth of a penny.
package replay
