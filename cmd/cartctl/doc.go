// Command cartctl is the client for operators, drills and measurements: it
// edits and explains one cart, shows regions, cuts links and kills nodes,
// compares all regions, backs them up and restores them, replays real
// orders through them, and makes failover drills.
//
//	cartctl add SKU-456 2 --user user-123
//	cartctl replay --cut us-east,eu-west:33%-66% --kill ap-south/2:40%-60%
//	cartctl verify --json
//	cartctl drill region-loss --report report
//	cartctl backup --region us-east --to s3://shop-backups/us-east
//
// Flags can also come from the environment (SAMECART_ADDR, SAMECART_TOKEN,
// SAMECART_CONFIG) and from a YAML file named by --config, with a flag's name as the key.
// With --json every command prints one JSON object on one line, last on
// standard output; everything else goes to standard error, as do errors for
// people. The exit code is 0 when all is good, 1 when something failed, was
// refused or is not proved, and 2 for wrong usage, an input file that cannot
// be read included.
//
// # Decisions
//
//   - Calls use Connect, and --json shows answers in the form of REST: the
//     names of the messages in snake_case, money as decimal numbers, times as
//     RFC 3339. Connect reaches lines with options, which the paths of REST
//     do not; one generic converter keeps all commands alike. Cost: it must follow when
//     REST adds a form of its own.
//   - A failed command with --json still prints its object, {"error":{…}}: a
//     script reads one place. A replay or verify that disproves equality prints
//     its full result and exits 1.
//   - Every mutation carries an idempotency key, made here unless given, and
//     is tried again with it while its outcome is not known, at most for 15
//     seconds. What comes back is the first outcome.
//   - A command without --region goes to --addr, which may be any region's or
//     the address that picks one. Faults and proofs go to every region by
//     the address that the admin service names.
//   - A drill goes to --addr only where one was given: without, it starts a cluster
//     of its own, since the default address may be somebody's work. What it does is in
//     simulations/drill; here are its flags and what it prints.
//   - kong was chosen because one struct gives flags, environment and file;
//     the standard flag package has neither subcommands nor the other two.
package main
