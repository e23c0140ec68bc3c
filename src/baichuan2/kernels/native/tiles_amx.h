/* The tiles of the matrix unit: 8 of 16 rows by 64 bytes. */
#ifndef BAICHUAN2_TILES_AMX_H
#define BAICHUAN2_TILES_AMX_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfiguration;

/* In every parallel region anew: other libraries configure the tiles for themselves. */
static inline void configure_tiles(void) {
    TileConfiguration wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.palette = 1;
    for (int i = 0; i < 8; i++) {
        wanted.row_bytes[i] = 64;
        wanted.rows[i] = 16;
    }
    /* gcc 12 thinks that the instruction reads eight bytes only and may drop the stores of the others */
    __asm__ volatile("" : : "r"(&wanted) : "memory");
    _tile_loadconfig(&wanted);
}

#endif
