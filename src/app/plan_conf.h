/* app/plan_conf.h — dikast plan CONF: what the stages of a run will need (cai/dryrun.h), as a table or JSON. */
#ifndef DIKAST_APP_PLAN_CONF_H
#define DIKAST_APP_PLAN_CONF_H

#include "app/command.h"

bool plan_conf(const Args *a, Error *err);

#endif
