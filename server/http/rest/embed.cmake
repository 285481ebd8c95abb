# cmake -DINPUT=FILE -DOUTPUT=FILE.inc -P embed.cmake: the bytes of a file as the inside of a C++ array's braces.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" lines "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," lines "${lines}")
file(WRITE ${OUTPUT} "${lines}\n")
