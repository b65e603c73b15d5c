/* Memory-mapped registers. */
#ifndef EDGE_REGISTERS_H
#define EDGE_REGISTERS_H

#include <stdint.h>

#include "board_config.h"

#define EDGE_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define EDGE_REGISTER8(address) (*(volatile uint8_t *)(uintptr_t)(address))

#endif
