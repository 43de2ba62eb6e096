// Package promotion is the embedded promotion service: what cartd uses in place of
// a shop's own implementation of promotion.v1.PromotionService. It reads the
// rules from a YAML file.
//
// # The file
//
//	promotions:
//	  - code: WELCOME10         # 1 to 32 letters, digits, - and _; in any case
//	    title: 10 % off         # what shoppers read
//	    percent: 10             # one of percent, fixed, buy and get, bundle, free_shipping
//	    minimum: 20.00 USD      # what the lines it applies to must come to
//	    from: 2026-01-01        # a date is its midnight in UTC; or 2026-01-01T09:00:00+01:00
//	    until: 2027-01-01       # not any more from then on
//	    seller_id: seller-1     # applies to this seller's lines only
//	    sku_ids: [SKU-1, SKU-2] # and to these
//	    customers: [user-123]   # for these users only
//	    signed_in: true         # not for guests
//	    priority: 10            # the lowest first, then by code
//	    group: welcome          # one code of a group counts
//	    exclusive: true         # counts alone
//	    uses_max: 100
//	    per_customer_max: 1
//	  - {code: FIVE, fixed: 5.00 USD}
//	  - {code: 3FOR2, buy: 2, get: 1}                # get_percent: 50, units_max: 3
//	  - {code: DESK, bundle: {items: {SKU-1: 1, SKU-2: 2}, price: 30.00 USD, times_max: 1}}
//	  - {code: SHIPFREE, free_shipping: true}
//
// What each does is computed by package pricing.
//
// # Decisions
//
// A file is read whole and refused whole: a shop with half of its rules would
// sell at prices that nobody meant. All that is wrong is reported at once, with
// the code, or the number, of each entry.
//
// Amounts carry their currency, as the file has no other place for it and a
// rule without one would mean 5 USD in one cart and 5 JPY in another.
package promotion
