/* rows_vnni.c on processors that also have VBMI. */
#include "rows_vnni.c"
