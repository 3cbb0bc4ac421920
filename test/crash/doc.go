// Package crash ends the real program in every bad way and counts what is
// left. Run it with
//
//	make crash-short    20 rounds of each kind, as CI does
//	make crash          ROUNDS rounds (100)
//
// TestKill kills the process (SIGKILL) under load at random moments and starts
// it again on the same spool. Since that keeps the page cache it proves
// nothing about fsync: TestPowerCut puts the spool on an ext4 image of its
// own, shuts the file system down first (EXT4_IOC_SHUTDOWN without a log
// flush), and mounts it anew. That takes root, mkfs.ext4 and a loop device.
//
// Afterwards three accounts are reconciled that know nothing of each other:
// what the sources got 250 or 202 for, what the provider simulator answered
// 250 for, and the engine's own events. Nothing may be missing or altered; a
// message may come twice only if its first delivery was so shortly before a
// cut that its outcome was not on record.
//
// The other tests damage a volume and expect a clear error that says what to
// do, and nothing lost after doing it.
//
// GODWIT_ROUNDS is the number of rounds, GODWIT_SEED repeats the random
// decisions of a run (the moments still depend on the machine). What a run
// cannot do without root is skipped, unless GODWIT_INTEROP=require.
package crash
