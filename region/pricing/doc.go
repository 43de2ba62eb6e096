// Package pricing computes what a cart costs: the price that counts for a
// line, subtotals, promotions, the estimated total. It is pure: the same
// lines, rules, customer and time give the same result in every region.
//
// # The price rule
//
// Of the price when a line was added and the current one the lower counts,
// see [UnitPrice].
//
// # Promotions
//
// [Price] takes the rules of a cart's codes in order of priority, the lowest
// number first, then of code. Each takes from what those before it have left of
// the lines in its scope, so no total is ever below zero:
//
//	percent        of what is left in scope
//	fixed          an amount, at most what is left in scope
//	buy and get    the cheapest units: of each buy + get units get
//	bundle         the difference between what its items cost and its price
//	free shipping  nothing of the lines; the shipping estimate counts it
//
// A code counts only while all its conditions hold: time window, customer,
// uses, currency, something in scope, minimum spend (what the lines in scope come
// to before any discount), and that no code before it excludes it. Else it is
// in Result.Rejected with the first condition that did not hold. Lines that are saved
// for later or in another currency than the cart's are in no total, in no
// minimum and in no scope.
//
// # Laws
//
// The tests hold them as properties:
//
//	sum of the sellers' subtotals  = subtotal
//	sum of the lines' discounts    = sum of the codes' = sum of the sellers'
//	total                          = subtotal − discounts, never below zero
//	discount of a line             ≤ its amount, and 0 of a line out of scope
//	the order of lines and of codes given changes nothing
//	more of a line never lowers the total, but where it reaches a minimum or
//	completes a bundle
//
// # Decisions
//
// Amounts are whole minor units of one currency, whatever its digits (JPY 0, USD
// 2, KWD 3), so nothing here rounds but percentages and parts: a percentage
// is rounded half up, once for all lines in scope, and the result is
// split over them by largest remainder, of equal remainders the lower line key
// first. Rounding per line would take up to half a unit a line more or less than
// what the shop promised. Rejected: rounding half to even, which is for
// sums of many unrelated amounts and surprises whoever checks a receipt.
//
// Priorities decide, not the best outcome for the shopper: a search over
// subsets has results that change when an unrelated line does, and a shop
// could not say which of two codes goes first. A code that takes nothing off is
// rejected and excludes none.
//
// Rules are the messages of promotion.v1, checked by [Check]: a copy in types
// of our own would have the same fields.
//
// A line at which the subtotal would pass the largest amount there is counts
// what still fits. That takes prices that the API does not accept; the parts
// still sum to the whole then.
package pricing
