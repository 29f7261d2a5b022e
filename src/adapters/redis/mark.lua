-- Put members into the set KEYS[1] and forget the set KEYS[2]. ARGV: what the reply begins with, the bytes of a member,
-- the members joined, how many milliseconds the set stays.
local width, members = tonumber(ARGV[2]), {}
for at = 1, #ARGV[3], width do
  members[#members + 1] = string.sub(ARGV[3], at, at + width - 1)
end
-- A server that is full refuses a script its first write only: anything before SADD would let it grow beyond its bound.
local added = redis.pcall('SADD', KEYS[1], unpack(members))
local refused = type(added) == 'table'
if not refused then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
-- Expiring millions of members would stop the server for as long as it takes; UNLINK does it beside.
redis.call('UNLINK', KEYS[2])
return refused and added or ARGV[1]
