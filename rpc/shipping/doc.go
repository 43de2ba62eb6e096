// Package shipping is the embedded shipping service: what cartd dev and tests
// use in place of a shop's own implementation of
// shipping.v1.ShippingService.
//
// A [Table] says what sending costs and how long it takes; rates.json is the
// one that is built in, and [Read] reads another. [Table.Estimate] is pure: the
// time is an argument.
//
// # Decisions
//
// What a parcel costs depends on its weight and on how far it goes, which has
// three degrees: within the seller's country, within its zone, and further. A
// matrix of zones has more numbers than anybody checks; a shop that needs
// one has a service of its own.
//
// Each line is a parcel, or as many as its weight needs. Putting a seller's
// lines into one parcel is cheaper, but then a line's cost changes with
// the others, and the cart shows it line by line.
//
// Days are working days, Monday to Friday, without public holidays: an
// estimate has a window, and a calendar for each country would need
// keeping. A day begins in UTC; an order after the cut-off is handled from
// the next working day on.
//
// A weight that is not known is the table's default: an estimate that is
// somewhat wrong serves a shopper better than none.
package shipping
