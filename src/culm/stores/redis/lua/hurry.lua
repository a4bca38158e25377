-- Let a claim that waits end. ARGV: now, the claimer, for how many ms one that is yet to arrive finds this
despite_full_memory()
call('ZADD', P .. 'w:' .. ARGV[2], '0', '1')
call('PEXPIRE', P .. 'w:' .. ARGV[2], ARGV[3])
