complete -C /usr/bin/aliquot aliquot
