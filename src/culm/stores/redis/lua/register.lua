-- Show a worker for a while. ARGV: now, id, info, for_ms
despite_full_memory()
in_grace(ARGV[4])
call('HSET', P .. 'workers', ARGV[2], string.format('%.0f\n', now + ARGV[4]) .. ARGV[3])
